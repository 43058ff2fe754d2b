"""Groups that the fit did not see: their latents are drawn from the distribution of the groups.

A group is an index of a plate that is not the rows'. Where a plate is larger than at the fit, the
groups of the fit keep their posterior draws and those after them are drawn given the posterior of
all else. A plate of a size that the kernel wrote is made as large as the codes need.
"""

from collections.abc import Callable, Mapping
from typing import Any

from aimz.errors import InputError, Note, OutputWarning
from aimz.kernel import KernelSpec, kernel_signature, needed_sizes, row_plates

__all__ = ["groups_kept", "with_larger_plates"]


def with_larger_plates(
    kernel: Callable[..., Any], spec: KernelSpec, arrays: Mapping[str, Any]
) -> Callable[..., Any] | None:
    """The kernel with plates as large as the codes of its groups need; None where they are.

    Raises
    ------
    InputError
        `groups-unclear`: two plates have the size of the table that the codes lead beyond.
    """
    resized: Callable[..., Any] = kernel
    for size, needed in needed_sizes(spec.lookups, arrays).items():
        plates = {
            name
            for site in spec.sites
            for name, length in zip(site.dims, site.shape, strict=True)
            if name is not None and name not in spec.row_plates and length == size
        }
        if len(plates) > 1:
            msg = (
                f"Codes lead beyond {size} groups, and plates {', '.join(sorted(plates))} have so "
                "many: it is not known which one grows. Give each its size by an argument."
            )
            raise InputError(msg, code="groups-unclear")
        if plates:
            resized = row_plates(resized, plates, needed)
    if resized is kernel:
        return None
    resized.__signature__ = kernel_signature(kernel)  # type: ignore[attr-defined]  # of a handler
    return resized


def groups_kept(spec: KernelSpec, reused: Mapping[str, Any]) -> tuple[Note, ...]:
    """What is said of new rows whose groups, by a code that they bring, are those of the fit."""
    sizes = {lookup.size for lookup in spec.lookups}
    grouped = [
        (site.name, plate)
        for site in spec.sites
        for plate, size in zip(site.dims, site.shape, strict=True)
        if site.name in reused and plate not in (None, *spec.row_plates) and size in sizes
    ]
    if not grouped:
        return ()
    name, plate = grouped[0]
    text = (
        f"'{name}' keeps its posterior draws: a code of plate '{plate}' means the group of the "
        "fit. Give new groups codes after those, and pass new_groups='prior' to draw them."
    )
    return (Note(OutputWarning, text, "groups-kept"),)
