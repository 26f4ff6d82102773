"""Train a small autoencoder on the images of a shard set, and go on exactly where a run was broken off.

    python examples/train_autoencoder.py SHARDS [--steps 300] [--checkpoint autoencoder.pt]

SHARDS is the folder or URL of a set. The loss is printed every ten steps and every `--save-every` steps a checkpoint is
written: model, optimizer and the loader's state. Started again, the run continues in the middle of the epoch with the
next batch, and prints the losses that it would have printed. On a GPU if there is one, else on the CPU: a minute or two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from mmu_pipeline.loader import ShardDataset, ShardLoader

SIDE = 64
"""Pixels that the network sees; images are averaged to it."""


class Autoencoder(nn.Module):
    """Three steps down to a code of 32 numbers, three up."""

    def __init__(self, bands: int, code: int = 32) -> None:
        super().__init__()
        side = SIDE // 8
        down = [
            nn.Conv2d(bands, 16, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(32, 32, 4, 2, 1),
            nn.GELU(),
        ]
        up = [nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.GELU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.GELU()]
        self.encode = nn.Sequential(*down, nn.Flatten(), nn.Linear(32 * side**2, code))
        last = nn.ConvTranspose2d(16, bands, 4, 2, 1)
        self.decode = nn.Sequential(nn.Linear(code, 32 * side**2), nn.Unflatten(1, (32, side, side)), nn.GELU(), *up, last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(image))


def prepared(image: torch.Tensor, device: str) -> torch.Tensor:
    """Raw flux (n, bands, height, width) to what the network sees: compressed by arcsinh of the noise level, 64 x 64."""
    flux = image.to(device, torch.float32, non_blocking=True)
    noise = flux.flatten(1).abs().median(dim=1).values.clamp(min=1e-6)[:, None, None, None]
    return nn.functional.interpolate(torch.asinh(flux / noise) / 3, (SIDE, SIDE), mode="area")


def main(
    shards: Annotated[str, typer.Argument(help="Folder or URL of a set.")],
    member: Annotated[str | None, typer.Option(help="Which images, as in hsc.image; by default the first member.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the whole run, those before a resume included.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 64,
    checkpoint: Annotated[Path, typer.Option(help="Where the run is kept.")] = Path("autoencoder.pt"),
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    print_every: Annotated[int, typer.Option(help="Steps between lines.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the network and of the order of images.")] = 0,
) -> None:
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = ShardDataset(shards, "train", members=None if member is None else [member], columns=[])
    name = dataset.wanted.members[0].name
    dataset = ShardDataset(shards, "train", members=[name], columns=[])
    loader = ShardLoader(dataset, batch_size, seed=seed, output="torch")
    model = Autoencoder(int(dataset.wanted.members[0].shape[0])).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    step = 0
    if checkpoint.exists():
        kept: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        loader.load_state_dict(kept["loader"])
        step = kept["step"]
        print(f"going on from step {step}, epoch {loader.epoch}", flush=True)
    while step < steps:
        for batch in loader:
            image = prepared(batch[name], device)
            loss = nn.functional.mse_loss(model(image), image)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % print_every == 0:
                print(f"step {step} loss {loss.item():.6f}", flush=True)
            if step % save_every == 0 or step == steps:
                save(checkpoint, {"model": model, "optimizer": optimizer, "loader": loader}, step)
            if step == steps:
                break


def save(path: Path, parts: dict[str, Any], step: int) -> None:
    """Write a checkpoint in one step: a run that is killed meanwhile leaves the one before."""
    aside = path.with_suffix(".partial")
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step}, aside)
    os.replace(aside, path)


if __name__ == "__main__":
    typer.run(main)
