"""Figures of others, to stand beside ours: never taken for results, never computed with."""

SOURCE = "arXiv 2006.11487, iterative pruning"
NAMES = ("dense", "finetuned at a low rate", "one-cycle finetuned", "distilled")

PUBLISHED: dict[tuple[str, str], tuple[str, tuple[float, ...]]] = {  # parameters left, top-1 in percent as in NAMES
    ("cifar10", "resnet56"): ("0.29M", (93.42, 92.69, 93.41, 93.90)),
    ("cifar10", "resnet110"): ("0.36M", (94.01, 93.02, 93.69, 94.44)),
    ("cifar10", "vgg16"): ("1.02M", (94.23, 93.47, 93.53, 94.01)),
    ("cifar10", "wrn_16_8"): ("2.53M", (95.62, 95.47, 95.55, 95.97)),
    ("cifar10", "preresnet164"): ("", (95.06,)),
    ("cifar100", "resnet56"): ("0.29M", (71.07, 69.53, 70.46, 72.27)),
    ("cifar100", "resnet110"): ("0.36M", (72.35, 68.90, 71.59, 73.12)),
    ("cifar100", "vgg16"): ("1.02M", (73.24, 68.39, 71.74, 73.91)),
    ("cifar100", "wrn_16_8"): ("2.53M", (79.57, 77.92, 78.82, 80.08)),
    ("cifar100", "preresnet164"): ("", (76.35,)),
}


def published(dataset: str, arch: str) -> str:
    """Return a sentence on what was published for a network and dataset; empty if nothing is known."""
    if (dataset, arch) not in PUBLISHED:
        return ""
    left, figures = PUBLISHED[dataset, arch]
    said = ", ".join(f"{name} {top1:.2f}" for name, top1 in zip(NAMES, figures, strict=False))
    return f"published top-1 ({SOURCE}): {said}" + (f"; {left} parameters left" if left else "")
