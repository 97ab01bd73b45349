"""How much memory of the GPU a stage takes, from the sizes of its model and its settings alone. Pure: no torch.

What is counted is what PyTorch's allocator counts: every tensor that is alive at once, at the moments when most are.
The terms follow the tensors that transformers' Qwen3-VL, PEFT and TRL's trainers keep (transformers 5.15 to 5.23, peft
0.21, trl 1.16); tests hold them against tensors counted while the real trainers run, `benchmarks/memory.py` against a
GPU. Not counted: the CUDA context and its libraries, and what fragmentation wastes.
"""
