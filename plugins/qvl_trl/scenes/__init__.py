"""Pictures of coloured shapes with questions about where things are: `spatial_scenes`.

Needs Pillow and the standard library alone. The parts: `scene` samples contents and cuts them into
disjoint splits, `draw` renders them, `questions` and `describe` ask and tell, `dataset` writes.
"""

from qvl_trl.scenes.dataset import write_split

__all__ = ["write_split"]
