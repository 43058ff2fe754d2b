"""Runs a command in a network of its own, where all that leaves this machine is seen.

`unshare --user --map-root-user --net python -m tests.support.apart COMMAND ...` gives the network
two ways: loopback, and a device for everything else, whose packets nobody answers. It ends as the
command does, and its last line is a list of where packets went: one of its own, and no other.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys

__all__ = ["COMMAND", "OWN"]

#: What a command of this module begins with.
COMMAND = (
    *("unshare", "--user", "--map-root-user", "--net"),
    *(sys.executable, "-m", "tests.support.apart"),
)
#: Where its own packet goes, so that one that leaves is known to be seen: an address for examples.
OWN = "192.0.2.1"
_DEVICE = b"away"
# Of Linux: <linux/if_tun.h>, <linux/sockios.h>, <linux/route.h>.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_GET_FLAGS, _SET_FLAGS, _SET_ADDRESS, _ADD_ROUTE, _UP = 0x8913, 0x8914, 0x8916, 0x890B, 1


def _bring_up(control: socket.socket, device: bytes) -> None:
    asked = struct.pack("16sH14x", device, 0)
    _, flags = struct.unpack("16sH14x", fcntl.ioctl(control, _GET_FLAGS, asked))
    fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", device, flags | _UP))


def _address(text: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _watched() -> int:
    """Set up the network; gives what packets are read from."""
    away = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(away, _TUNSETIFF, struct.pack("16sH14x", _DEVICE, _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _bring_up(control, b"lo")
        address = struct.pack("16s16s", _DEVICE, _address("198.51.100.1"))
        fcntl.ioctl(control, _SET_ADDRESS, address)
        _bring_up(control, _DEVICE)
        nowhere, name = _address("0.0.0.0"), ctypes.create_string_buffer(_DEVICE)
        route = ("L16s16s16sHhLPhPLLH", 0, nowhere, nowhere, nowhere, _UP, 0, 0, 0, 0)
        fcntl.ioctl(control, _ADD_ROUTE, struct.pack(*route, ctypes.addressof(name), 0, 0, 0))
    return away


def _gone(away: int) -> list[str]:
    """Where packets of IPv4 went; those of IPv6 are the system's own, looking for neighbours."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while packet := os.read(away, 65536):
            if packet[0] >> 4 == 4:
                found.append(socket.inet_ntoa(packet[16:20]))
    return sorted(set(found))


def main() -> None:
    """Run a command there."""
    away = _watched()
    ended = subprocess.run(sys.argv[1:], check=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"seen", (OWN, 9))
    sys.stdout.write(f"{json.dumps(_gone(away))}\n")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
