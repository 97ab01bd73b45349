import json
import subprocess
import sys

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "numpy",
    "PIL",
    "bitsandbytes",
    "fsspec",
    "s3fs",
    "gcsfs",
}


def imported(code: str) -> set[str]:
    report = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    ).stdout
    return {name.partition(".")[0] for name in json.loads(out.splitlines()[-1])}


def test_no_module_of_the_core_imports_anything_heavy() -> None:
    code = (
        "import importlib, pkgutil, qvl_run\n"
        "for module in pkgutil.walk_packages(qvl_run.__path__, 'qvl_run.'):\n"
        "    module.name.endswith('__main__') or importlib.import_module(module.name)"
    )
    found = imported(code)
    assert "qvl_run" in found
    assert not found & HEAVY


def test_no_plugin_imports_anything_heavy_when_it_is_loaded() -> None:
    code = (
        "from qvl_run import plugins\n"
        "for group in plugins.GROUPS:\n"
        "    for name in plugins.installed(group): plugins.load(group, name)"
    )
    found = imported(code)
    assert "qvl_trl" in found
    assert not found & HEAVY


def test_help_loads_no_more_than_click() -> None:
    code = "import qvl_run.cli\ntry: qvl_run.cli.cli(['--help'])\nexcept SystemExit: pass"
    found = imported(code)
    assert not found & (HEAVY | {"rich", "jsonschema", "ruamel", "tenacity", "psutil", "pynvml"})
