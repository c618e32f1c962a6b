"""The networks that the automaton is compared with, as the paper configures them (arXiv 2512.13397, Appendix C)."""

from torch import nn

DIVISOR = {"unet": 16, "swin": 32}
"""Edges of an input must be multiples of this."""


def build(kind: str, channels: int, classes: int) -> nn.Module:
    """A network (B, channels, H, W) -> (B, classes, H, W) of logits.

    "unet": five levels of 16 to 256 channels, strides of 2, two residual units of 5×5 kernels, 3×3 upwards.
    "swin": Swin-UNETR, 48 features, version 2 blocks, depths of 2, 3, 6, 12 and 24 heads, windows of 7.
    """
    from monai.networks.nets import SwinUNETR, UNet  # takes seconds

    if kind == "unet":
        return UNet(
            spatial_dims=2,
            in_channels=channels,
            out_channels=classes,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            kernel_size=5,
            up_kernel_size=3,
            num_res_units=2,
        )
    if kind == "swin":
        return SwinUNETR(
            in_channels=channels,
            out_channels=classes,
            feature_size=48,
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            window_size=7,
            use_v2=True,
            spatial_dims=2,
        )
    raise ValueError(f"no network {kind!r}")


def parameters(net: nn.Module) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in net.parameters())
