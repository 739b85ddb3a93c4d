"""Models that can be pulled by name, as docs/models.md lists them."""

from __future__ import annotations

from typing import NamedTuple


class KnownModel(NamedTuple):
    """Where a model is, and its licence as its authors state it: copies often state none."""

    repository: str
    licence: str
    title: str


KNOWN_MODELS: dict[str, KnownModel] = {
    "clip-vit-b32": KnownModel(
        "Xenova/clip-vit-base-patch32", "mit", "CLIP ViT-B/32 (OpenAI, 2021)"
    ),
    "siglip2-base": KnownModel(
        "onnx-community/siglip2-base-patch16-256-ONNX",
        "apache-2.0",
        "SigLIP 2 base, 256 px (Google, 2025)",
    ),
    "dinov2-small": KnownModel(
        "onnx-community/dinov2-small", "apache-2.0", "DINOv2 small (Meta, 2023)"
    ),
    "dinov2-base": KnownModel("Xenova/dinov2-base", "apache-2.0", "DINOv2 base (Meta, 2023)"),
    "resnet50-torch": KnownModel(
        "Qdrant/resnet50-onnx", "apache-2.0", "ResNet-50 of PyTorch, as fastembed has it"
    ),
    "mobileclip-s0": KnownModel(
        "Xenova/mobileclip_s0", "apple-amlr", "MobileCLIP S0 (Apple, 2024)"
    ),
}

# Who takes these agrees to nothing first. All else is asked about.
FREE_LICENCES = {
    "0bsd",
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc0-1.0",
    "isc",
    "mit",
    "unlicense",
    "zlib",
}
