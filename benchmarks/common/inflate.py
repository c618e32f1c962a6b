"""A network for volumes that begins as one for images: it does slice by slice what that one does."""

import torch

from rnca.automaton import RNCA

SMALL = 0.02
"""Standard deviation of the weights from what the slices' network does not know to the hidden layer."""


def inflate(flat: RNCA, seed: int = 0, small: float = SMALL) -> RNCA:
    """A 3-D network from a 2-D one, with one filter more (the Sobel filter across slices).

    Its 3×3×3 filters are the 2-D ones in the middle plane. With `small` 0 its values are those of `flat` in a volume of
    one slice; what is above lets training find a use for the neighbouring slices.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = RNCA(3, flat.image_channels, flat.state_channels, flat.filters + 1, flat.hidden_width)
        known = [0, *range(2, net.filters)]  # filter 1 is the new one
        seen = net.perceive_state.weight.unflatten(0, (net.state_channels, net.filters))
        seen[:, known] = 0
        seen[:, known, :, 1] = flat.perceive_state.weight.unflatten(0, (flat.state_channels, flat.filters))
        old, new = flat.filters * flat.state_channels, net.filters * net.state_channels  # N
        assert net.perceive_image.bias is not None and flat.perceive_image.bias is not None
        net.perceive_image.weight[:old] = 0
        net.perceive_image.weight[:old, :, 1] = flat.perceive_image.weight
        net.perceive_image.bias[:old] = flat.perceive_image.bias
        net.hidden.weight.normal_(0, small) if small else net.hidden.weight.zero_()
        from_state = net.hidden.weight[:, :new].unflatten(1, (net.state_channels, net.filters))
        flat_state = flat.hidden.weight[:, :old].unflatten(1, (flat.state_channels, flat.filters))
        from_state[:, :, known] = flat_state[..., None]
        net.hidden.weight[:, new : new + old] = flat.hidden.weight[:, old:, ..., None]
        for ours, theirs in ((net.hidden, flat.hidden), (net.delta, flat.delta)):
            assert ours.bias is not None and theirs.bias is not None
            ours.bias.copy_(theirs.bias)
        net.delta.weight.copy_(flat.delta.weight[..., None])
    return net
