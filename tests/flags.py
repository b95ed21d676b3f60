"""XLA's flags for tiny programs: most of their time is compilation, and these make that short.

`python -m tests.flags` prints them, for a program that the gate starts.
"""

from importlib.metadata import version

FLAGS = [
    "--xla_backend_optimization_level=0",
    # One program is compiled by one thread: the other cores have workers of their own.
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jax") < "0.11":  # later versions have no slow emitters to turn off
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
QUICK = " ".join(FLAGS)

# Eight emulated devices wait for each other for long on a busy machine.
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=300"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
)

if __name__ == "__main__":
    print(QUICK)
