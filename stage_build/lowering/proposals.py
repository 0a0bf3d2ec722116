"""Region proposals."""

from __future__ import annotations

from typing import Any

from stage_build.lowering.registry import Call, Site, lowering


def _settings(site: Site) -> dict[Any, Any]:
    made, limits = site.meaning, site.meaning.limits()
    return {
        "stride": made.stride(),
        "candidates": limits.candidates,
        "most": limits.kept,
        "overlap": limits.overlap,
        "scores": len(site.tops) > 1,
    }


@lowering("Proposal", dialect="pvanet")
def proposal(site: Site) -> Call:
    made = site.meaning
    return Call(
        "proposal",
        {
            "ratios": tuple(made.ratio),
            "scales": tuple(made.scale),
            "base": made.base_size,
            "smallest": made.min_size,
            **_settings(site),
        },
    )


@lowering("Python", dialect="rpn.proposal_layer.ProposalLayer")
def proposal_layer(site: Site) -> Call:
    found = site.meaning.settings()
    return Call(
        "proposal_layer",
        {
            "ratios": tuple(map(float, found["ratios"])),
            "scales": tuple(map(float, found["scales"])),
            **_settings(site),
        },
    )
