"""DRRHO in a LightningModule: python examples/dropin/lightning_module.py SHARDS CACHE MODEL OUT

The arguments are those of plain_loop.py; OUT is a folder. Run it again and it goes on.
"""

import argparse
from pathlib import Path

import open_clip
import torch
from plain_loop import Pairs
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from rhocache_trainer import DRRhoClipLoss, ReferenceCache
from rhocache_trainer.loss.moving_average import cosine_gamma


class SteeredClip(LightningModule):
    """An open_clip model with its loss, whose state is then in every checkpoint."""

    def __init__(self, model, cache):
        super().__init__()
        self.model = model
        self.model.logit_scale.requires_grad_(False)  # tau is the loss's
        self.loss = DRRhoClipLoss(
            n=len(cache), averaged=True
        )  # of the ranks' gradients, as DDP does

    def configure_optimizers(self):
        return torch.optim.AdamW(
            [
                {"params": self.model.parameters(), "lr": 1e-3},
                # A single number near 0.07: the weights' rate would throw it about.
                {"params": self.loss.parameters(), "lr": 1e-4, "weight_decay": 0.0},
            ]
        )

    def on_train_epoch_start(self):
        self.loss.gamma = cosine_gamma(self.current_epoch, self.trainer.max_epochs // 2, 0.8)

    def training_step(self, batch):
        image, tokens, reference_image, reference_text, index = batch
        features = self.model(image, tokens)
        target = features["image_features"], features["text_features"]  # unit vectors
        result = self.loss(*target, reference_image, reference_text, index)
        print(f"step {self.global_step}  objective {result.objective:.4f}  tau {result.tau:.4f}")
        return result.loss


def main():
    parser = argparse.ArgumentParser()
    for name in ("shards", "cache", "model", "out"):
        parser.add_argument(name)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--devices", default="auto")
    args = parser.parse_args()

    seed_everything(0)
    # The evaluation transform: it is what the reference saw.
    model, _, preprocess = open_clip.create_model_and_transforms(args.model, output_dict=True)
    cache = ReferenceCache.open(args.cache)
    pairs = Pairs(args.shards, cache, preprocess, open_clip.get_tokenizer(args.model))
    loader = DataLoader(pairs, args.batch_size, shuffle=True, drop_last=True)
    last = Path(args.out) / "last.ckpt"
    trainer = Trainer(
        accelerator=args.accelerator,
        devices=args.devices if args.devices == "auto" else int(args.devices),
        max_epochs=args.epochs,
        callbacks=[ModelCheckpoint(args.out, save_last=True, save_top_k=0)],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.fit(SteeredClip(model, cache), loader, ckpt_path=last if last.exists() else None)


if __name__ == "__main__":
    main()
