"""What a detector found."""

from __future__ import annotations

from typing import Any

from stage_build.lowering.registry import Call, Site, lowering


@lowering("DetectionOutput", dialect="ssd")
def detection_output(site: Site) -> Call:
    return Call("detection_output", _arguments(site))


@lowering("DetectionOutput", dialect="refinedet")
def refined_detection_output(site: Site) -> Call:
    score = site.meaning.objectness_score
    return Call("detection_output", {**_arguments(site), "objectness_score": score})


def _arguments(site: Site) -> dict[Any, Any]:
    made = site.meaning
    return {
        "num_classes": made.num_classes,
        "share_location": made.share_location,
        "background_label_id": made.background_label_id,
        "code_type": made.code_type,
        "variance_encoded_in_target": made.variance_encoded_in_target,
        "confidence_threshold": made.confidence_threshold,
        "nms_threshold": made.nms("nms_threshold"),
        "top_k": made.nms("top_k"),
        "eta": made.nms("eta"),
        "keep_top_k": made.keep_top_k,
    }
