"""open_clip's own training command, steered: as `python -m open_clip_train.main`, with a cache.

    python examples/dropin/steer_open_clip.py --drrho-cache CACHE --train-data DATA.tar ...

All other options are open_clip's. Three of its functions are replaced: batches keep the names of
their pairs, the loss looks the pairs up in the cache, and what it has learned is saved beside each
checkpoint, as epoch_1.drrho beside epoch_1.pt.
"""

import argparse
import sys
from functools import cache
from pathlib import Path

import torch
from open_clip_train import data, main

from rhocache_trainer import DRRhoClipLoss, ReferenceCache
from rhocache_trainer.loss.moving_average import cosine_gamma

train_one_epoch = main.train_one_epoch


class NamedBatches:
    """A loader whose ``pairs`` are the (shard, key) of the batch that it gave last."""

    def __init__(self, loader, shards):
        self.loader, self.shards = loader, shards
        self.num_batches, self.num_samples = loader.num_batches, loader.num_samples
        self.shard = cache(self.shard)

    def shard(self, url):
        """By its name in the cache, which is its path below the dataset's folder."""
        return next(name for name in self.shards if f"/{url}".endswith(f"/{name}"))

    def __iter__(self):
        for images, texts, keys, urls in self.loader:
            self.pairs = [(self.shard(url), key) for url, key in zip(urls, keys, strict=True)]
            yield images, texts


class SteeredLoss(torch.nn.Module):
    """Called as open_clip's losses are."""

    def __init__(self, args, cache, tau):
        super().__init__()
        if args.accum_freq > 1 or args.distill or args.dataset_resampled:
            raise SystemExit("not with --accum-freq, --distill-model or --dataset-resampled")
        self.cache, self.args = cache, args
        # A constant tau: open_clip would train it at the weights' learning rate.
        settings = {
            "temperature": "constant",
            "averaged": True,
        }  # DDP averages the ranks' gradients
        self.drrho = DRRhoClipLoss(n=len(cache), tau=tau, **settings)
        if args.resume:
            self.drrho.load_state_dict(torch.load(Path(args.resume).with_suffix(".drrho")))
        self.drrho.to(args.device)

    def forward(self, image_features, text_features, logit_scale, **_):
        rows = self.cache.lookup(self.batches.pairs)
        reference = (torch.tensor(each[:, 0]) for each in (rows.image, rows.text))
        reference = [each.to(image_features) for each in reference]
        index = torch.tensor(rows.index).to(image_features.device)
        loss = self.drrho(image_features, text_features, *reference, index).loss
        # DDP also wants a gradient of every parameter; 1 / tau stands for the logit scale.
        return {"drrho_loss": loss + 0 * logit_scale}


def train_steered(model, data, loss, epoch, *rest, **options):
    if not isinstance(data["train"].dataloader, NamedBatches):
        data["train"].dataloader = NamedBatches(data["train"].dataloader, loss.cache.shards)
    loss.batches = data["train"].dataloader
    loss.drrho.gamma = cosine_gamma(epoch, loss.args.epochs // 2, 0.8)
    train_one_epoch(model, data, loss, epoch, *rest, **options)
    if loss.args.save_logs:  # on the first rank; the state is the same on all
        folder = Path(loss.args.checkpoint_path)
        torch.save(loss.drrho.state_dict(), folder / f"epoch_{epoch + 1}.drrho")


def steer():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--drrho-cache", required=True)
    parser.add_argument("--drrho-tau", type=float, default=0.07)
    ours, theirs = parser.parse_known_args()
    reference = ReferenceCache.open(ours.drrho_cache)
    to_tuple = data.wds.to_tuple
    data.wds.to_tuple = lambda *names: to_tuple(*names, "__key__", "__url__")
    main.create_loss = lambda args: SteeredLoss(args, reference, ours.drrho_tau)
    main.train_one_epoch = train_steered
    sys.exit(main.main(theirs))


if __name__ == "__main__":
    steer()
