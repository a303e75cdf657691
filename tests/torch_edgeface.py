"""EdgeFace in PyTorch. The names of the parameters are those of the published files, of timm's EdgeNeXt in `model`."""

import math

import torch
from torch import nn
from torch.nn import functional

# Number of blocks, size of the depthwise kernels and parts of the channels of the attention block.
STAGES = ((3, 3, 0), (3, 5, 2), (9, 7, 3), (3, 9, 4))


class LowRank(nn.Module):
    def __init__(self, inputs, outputs, ratio):
        super().__init__()
        rank = max(2, int(min(inputs, outputs) * ratio))
        self.linear1, self.linear2 = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)

    def forward(self, x):
        return self.linear2(self.linear1(x))


def linear(inputs, outputs, ratio):
    return LowRank(inputs, outputs, ratio) if ratio else nn.Linear(inputs, outputs)


def depthwise(channels, kernel):
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    def __init__(self, channels, ratio):
        super().__init__()
        self.fc1, self.fc2 = linear(channels, 4 * channels, ratio), linear(4 * channels, channels, ratio)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    def __init__(self, channels, kernel, ratio):
        super().__init__()
        self.gamma = nn.Parameter(1e-6 * torch.ones(channels))
        self.conv_dw, self.norm = depthwise(channels, kernel), nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, ratio)

    def forward(self, x):
        y = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp(y)).permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    def __init__(self, channels, heads, ratio):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = linear(channels, 3 * channels, ratio), linear(channels, channels, ratio)

    def forward(self, x):
        batch, tokens, channels = x.shape
        heads = len(self.temperature)
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 4, 1)
        products = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).transpose(-1, -2)
        y = (products * self.temperature).softmax(dim=-1) @ value
        return self.proj(y.permute(0, 3, 1, 2).reshape(batch, tokens, channels))


class Positions(nn.Module):
    def __init__(self, channels, features=32):
        super().__init__()
        self.token_projection, self.features = nn.Conv2d(2 * features, channels, 1), features

    def forward(self, rows, columns):
        encoded = []
        for count in (rows, columns):
            angles = torch.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi
            angles = angles[:, None] / 10000 ** (torch.arange(0, self.features, 2) / self.features)
            encoded.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1))
        vertical, horizontal = encoded
        both = [vertical[:, None].expand(-1, columns, -1), horizontal[None].expand(rows, -1, -1)]
        return self.token_projection(torch.cat(both, dim=-1).permute(2, 0, 1)[None])


class AttentionBlock(nn.Module):
    def __init__(self, channels, parts, heads, ratio, has_positions):
        super().__init__()
        self.gamma_xca = nn.Parameter(1e-6 * torch.ones(channels))
        self.gamma = nn.Parameter(1e-6 * torch.ones(channels))
        self.convs = nn.ModuleList(depthwise(-(-channels // parts), 3) for _ in range(parts - 1))
        if has_positions:
            self.pos_embd = Positions(channels)
        self.norm_xca, self.xca = nn.LayerNorm(channels, eps=1e-6), ChannelAttention(channels, heads, ratio)
        self.norm, self.mlp = nn.LayerNorm(channels, eps=1e-6), Mlp(channels, ratio)

    def forward(self, x):
        first, *inner, last = x.chunk(len(self.convs) + 1, dim=1)
        convolved = [self.convs[0](first)]
        for convolution, part in zip(self.convs[1:], inner, strict=True):
            convolved.append(convolution(convolved[-1] + part))
        y = torch.cat([*convolved, last], dim=1)
        if hasattr(self, "pos_embd"):
            y = y + self.pos_embd(*y.shape[2:])
        batch, channels, rows, columns = y.shape
        y = y.flatten(2).transpose(-1, -2)
        y = y + self.gamma_xca * self.xca(self.norm_xca(y))
        y = self.gamma * self.mlp(self.norm(y))
        return x + y.transpose(-1, -2).reshape(batch, channels, rows, columns)


class Stage(nn.Module):
    def __init__(self, inputs, channels, blocks, kernel, parts, heads, ratio, has_positions):
        super().__init__()
        self.downsample = nn.Sequential()
        if inputs:
            self.downsample = nn.Sequential(LayerNorm2d(inputs, eps=1e-6), nn.Conv2d(inputs, channels, 2, 2))
        self.blocks = nn.Sequential(*(ConvBlock(channels, kernel, ratio) for _ in range(blocks - (parts > 0))))
        if parts:
            self.blocks.append(AttentionBlock(channels, parts, heads, ratio, has_positions))

    def forward(self, x):
        return self.blocks(self.downsample(x))


class EdgeNeXt(nn.Module):
    def __init__(self, channels, heads, ratio, dim):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 4, 4), LayerNorm2d(channels[0], eps=1e-6))
        self.stages = nn.Sequential(
            *(
                Stage(channels[number - 1] if number else 0, channels[number], *stage, heads, ratio, number == 1)
                for number, stage in enumerate(STAGES)
            )
        )
        self.head = nn.Module()
        self.head.norm, self.head.fc = LayerNorm2d(channels[-1], eps=1e-6), linear(channels[-1], dim, ratio)

    def forward(self, x):
        x = self.stages(self.stem(x)).mean((2, 3), keepdim=True)
        return self.head.fc(self.head.norm(x).flatten(1))


class TorchEdgeFace(nn.Module):
    def __init__(self, channels=(32, 64, 100, 192), heads=4, ratio=0.6, dim=512):
        super().__init__()
        self.model = EdgeNeXt(channels, heads, ratio, dim)

    def forward(self, x):
        return self.model(x)
