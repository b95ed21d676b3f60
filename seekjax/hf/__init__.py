"""DeepSeek's published checkpoints, read and written, and GGUF files.

This is the only place that contains another project's names.

names           one table: every published tensor, its shape, and where it is in seekjax
config_keys     the keys of config.json, and how each is read
config_reader   config.json -> ModelConfig, from the published dialect and transformers 5's
config_writer   ModelConfig -> config.json, in the published dialect
peft            the adapters of a run, in PEFT's files
untrusted       limits for files from strangers
tensor_file     one safetensors file, each number checked before it is used
files           the safetensors files of a folder, and their index
fp8_blocks      matrices in 128 x 128 blocks of FP8 with one scale each
published       a folder whose tensors fit its config, checked before any is read
load            a published checkpoint into sharded arrays, tensor by tensor
save            weights into a published checkpoint, tensor by tensor
gguf            weights into a file for llama.cpp
gguf_tokenizer  the tokenizer in that file
quote           strangers' names, made safe to print
"""
