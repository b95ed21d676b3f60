"""The sizes of the mesh axes, as a config states them; nothing here imports JAX."""

import math
from dataclasses import dataclass, fields

MOST = 2**20  # devices along an axis
FREQUENT = ("data", "fsdp", "expert", "tensor")  # axes of runs within one node
TWO_HOPS = ("two_hop", "two_hop_ragged")  # the exchanges that know of nodes


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis spans; the product is the number of devices a run uses."""

    # replicas that share nothing but the gradient sum; 0 = all devices that the other axes leave
    data: int = 0
    fsdp: int = 1  # replicas that also split parameters and optimizer moments (ZeRO-3)
    # nodes that share out the routed experts; their devices split each node's share by `expert`
    node: int = 1
    expert: int = 1  # splits the routed experts; tokens travel to them and back (V3 section 3.2)
    context: int = 1  # splits the positions of every sequence; for long ones
    tensor: int = 1  # splits heads, hidden widths and the vocabulary

    def sizes(self, devices: int) -> dict[str, int]:
        """Return the axis sizes, with `data = 0` filled in for this many devices.

        Raises ValueError if they do not fit.
        """
        sizes = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, size in sizes.items():
            least = 0 if name == "data" else 1
            if size < least:
                raise ValueError(f"mesh.{name} is {size}: give a positive number of devices.")
            if size > MOST:
                raise ValueError(f"mesh.{name} is {size:,}: give at most {MOST:,} devices.")

        # The data axis takes the devices that the other axes leave.
        others = math.prod(size for name, size in sizes.items() if name != "data")
        if not self.data:
            if devices % others:
                axes = " x ".join(name for name in sizes if name != "data")
                raise ValueError(
                    f"the mesh asks for {axes} = {others} devices, which does not "
                    f"divide the {devices} there are; change these axes or set mesh.data "
                    f"yourself{_emulation_hint(others)}."
                )
            sizes["data"] = devices // others

        count = math.prod(sizes.values())
        if count > devices:
            axes = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
            available = "is 1" if devices == 1 else f"are {devices}"
            raise ValueError(
                f"the mesh asks for {count} devices ({axes}) but there {available}: make the axes "
                f"smaller{_emulation_hint(count)}."
            )
        return sizes


def _emulation_hint(devices: int) -> str:
    return f", or emulate them on a CPU with JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={devices}"
