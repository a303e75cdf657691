"""Vision transformer in PyTorch. The names of the parameters are those of arcface_torch."""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)

    def forward(self, x):
        batch, tokens, channels = x.shape
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / (channels // self.heads) ** 0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, channels))


class Mlp(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        return self.fc2(functional.relu6(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels, heads, mlp_ratio):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(channels), Attention(channels, heads)
        self.norm2, self.mlp = nn.LayerNorm(channels), Mlp(channels, mlp_ratio * channels)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TorchViT(nn.Module):
    def __init__(self, channels=256, blocks=12, heads=8, patch_size=9, mlp_ratio=4, size=(112, 112), dim=512):
        super().__init__()
        self.size = size
        tokens = (size[0] // patch_size) * (size[1] // patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens, channels))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, channels))  # used in training only
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, channels, patch_size, patch_size)
        self.blocks = nn.ModuleList(Block(channels, heads, mlp_ratio) for _ in range(blocks))
        self.norm = nn.LayerNorm(channels)
        self.feature = nn.Sequential(
            nn.Linear(channels * tokens, channels, bias=False),
            nn.BatchNorm1d(channels, eps=2e-5),
            nn.Linear(channels, dim, bias=False),
            nn.BatchNorm1d(dim, eps=2e-5),
        )

    def tokens(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(-1, -2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x).flatten(1)

    def forward(self, x):
        return self.feature(self.tokens(x))
