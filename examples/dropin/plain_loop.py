"""DRRHO in an ordinary PyTorch loop: python examples/dropin/plain_loop.py SHARDS CACHE MODEL OUT

SHARDS is a folder of WebDataset tars, CACHE what `rhocache score` made of it, MODEL an open_clip
architecture or local-dir:PATH, OUT the checkpoint. Run it again and it goes on.
"""

import argparse
from pathlib import Path

import open_clip
import torch
from torch.utils.data import DataLoader, Dataset

from rhocache_schemas.dataset.formats.webdataset import ShardReader
from rhocache_schemas.dataset.image import open_image
from rhocache_schemas.dataset.pair import hash_image
from rhocache_schemas.dataset.shards import list_shards
from rhocache_trainer import DRRhoClipLoss, ReferenceCache
from rhocache_trainer.loss.moving_average import cosine_gamma


class Pairs(Dataset):
    """Pictures and captions in memory, each with its row of the cache."""

    def __init__(self, shards, cache, preprocess, tokenizer):
        found = [(shard.name, pair) for shard in list_shards(shards) for pair in ShardReader(shard)]
        rows = cache.lookup([(shard, pair.key) for shard, pair in found])  # in this order
        self.usable = rows.ok.nonzero()[0]
        for i in self.usable:
            if hash_image(found[i][1].image) != rows.image_hash[i]:
                raise SystemExit(f"{found[i]}: not the picture that the reference saw")
        self.pairs, self.rows = [pair for _, pair in found], rows
        self.preprocess, self.tokenizer = preprocess, tokenizer

    def __len__(self):
        return len(self.usable)

    def __getitem__(self, number):
        i = self.usable[number]
        image = self.preprocess(open_image(self.pairs[i].image))
        tokens = self.tokenizer(self.pairs[i].caption)[0]
        # View 0 of the picture, the first caption, and the row's number in the whole cache.
        return image, tokens, self.rows.image[i, 0], self.rows.text[i, 0], self.rows.index[i]


def main():
    parser = argparse.ArgumentParser()
    for name in ("shards", "cache", "model", "out"):
        parser.add_argument(name)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()

    torch.manual_seed(0)
    # The evaluation transform: it is what the reference saw.
    model, _, preprocess = open_clip.create_model_and_transforms(args.model, output_dict=True)
    cache = ReferenceCache.open(args.cache)
    pairs = Pairs(args.shards, cache, preprocess, open_clip.get_tokenizer(args.model))
    loader = DataLoader(pairs, args.batch_size, shuffle=True, drop_last=True)

    loss = DRRhoClipLoss(n=len(cache))  # of the whole cache, whatever part of it is trained on
    optimizer = torch.optim.AdamW(
        [
            {"params": model.parameters(), "lr": 1e-3},
            # A single number near 0.07: the weights' rate would throw it about.
            {"params": loss.parameters(), "lr": 1e-4, "weight_decay": 0.0},
        ]
    )
    start, out = 0, Path(args.out)
    if out.exists():
        saved = torch.load(out)
        for part in (model, loss, optimizer):
            part.load_state_dict(saved[type(part).__name__])
        start = saved["epochs"]

    for epoch in range(start, args.epochs):
        # The weight of the new estimates in the averages over earlier epochs; 1 is none of those.
        loss.gamma = cosine_gamma(epoch, args.epochs // 2, 0.8)
        for image, tokens, reference_image, reference_text, index in loader:
            features = model(image, tokens)
            target = features["image_features"], features["text_features"]  # unit vectors
            result = loss(*target, reference_image, reference_text, index)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
            print(f"epoch {epoch}  objective {result.objective:.4f}  tau {result.tau:.4f}")
        # The loss too: it has tau, and an average of each pair.
        state = {type(part).__name__: part.state_dict() for part in (model, loss, optimizer)}
        torch.save({**state, "epochs": epoch + 1}, out)


if __name__ == "__main__":
    main()
