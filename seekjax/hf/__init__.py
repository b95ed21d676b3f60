"""DeepSeek's published checkpoints, read and written: the only place that knows another project's
names.

names    one table: every tensor of the published layout, its shape, and where it lives in seekjax
config   config.json <-> ModelConfig, in the published dialect and in that of transformers 5
files    safetensors files from strangers: believed only after every number in them was checked
fp8      matrices in 128 x 128 blocks of FP8 with one scale each
load     a checkpoint into sharded arrays, tensor by tensor
save     weights into a checkpoint, tensor by tensor
gguf     weights into a file for llama.cpp, its tokenizer by gguf_tokenizer
convert  the command `seekjax convert`
"""
