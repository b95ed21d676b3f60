"""Names of the formats in which weights are stored."""

from typing import Literal

Kind = Literal["int8", "int4", "fp8"]  # quantised, in a run
Dtype = Literal["bf16", "f32", "fp8", "fp8-ue8m0"]  # in a published checkpoint
Type = Literal["f32", "f16", "q8_0", "q4_0"]  # in a GGUF file
