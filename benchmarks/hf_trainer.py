"""ESM2-8M as `transformers` trains it: its Trainer, its collator, batches padded to their longest protein, AdamW.

The optimizer and the schedule are those of `recipe=cramming_2024` (1e-3, 5 % warm-up, linear decay to zero), the
masking is ESM2's, the precision bf16 where the hardware multiplies it and fp32 elsewhere. The run ends after a number
of seconds since the start of the process; the schedule follows the time.

    python benchmarks/hf_trainer.py --fasta train.fasta.gz --seconds 300 --out runs/hf
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from plm_composer.hardware.precision import multiplies_bf16
from plm_composer.shards.inputs.fasta import read_fasta
from plm_composer.tokenizer import VOCABULARY

EXIT_SECONDS = 3.0
"""Kept back for the last save and the end of the process."""


class Proteins(Dataset[dict[str, list[int]]]):
    """Tokens of each protein, cut to a number of them.

    Args:
        fasta: The proteins.
        tokenizer: ESM2's.
        crop: Maximum tokens of a protein.
    """

    def __init__(self, fasta: Path, tokenizer: EsmTokenizer, crop: int) -> None:
        self.sequences = [protein.decode() for _, protein in read_fasta(fasta)]
        self.tokenizer = tokenizer
        self.crop = crop

    def __len__(self) -> int:
        """Number of proteins."""
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """One protein, tokenized."""
        tokens: dict[str, list[int]] = self.tokenizer(self.sequences[index], truncation=True, max_length=self.crop)
        return tokens


class Clock(TrainerCallback):
    """Saves the model at equal shares of the time, and ends the training with it.

    Args:
        seconds: The time from the start of the process.
        saves: Number of models to save.
        out: Folder of the models.
        tokenizer: Written beside each model.
    """

    def __init__(self, seconds: float, saves: int, out: Path, tokenizer: EsmTokenizer) -> None:
        self.began = psutil.Process().create_time()
        self.seconds, self.saves, self.out, self.tokenizer = seconds - EXIT_SECONDS, saves, out, tokenizer
        self.first_step: float | None = None
        self.saved = 0

    def elapsed(self) -> float:
        """Seconds since the process began."""
        return time.time() - self.began

    def rate(self, _: int) -> float:
        """Factor of the learning rate: 5 % of the training's time up, then linearly down to zero."""
        if self.first_step is None:
            self.first_step = self.elapsed()
        share = (self.elapsed() - self.first_step) / (self.seconds - self.first_step)
        return max(0.0, min(max(share, 0.002) / 0.05, (1 - share) / 0.95))

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """Saves, or ends the training, if it is time."""
        control = arguments[2]
        if self.elapsed() >= self.seconds:
            control.should_training_stop = True
        elif self.elapsed() >= self.seconds * (self.saved + 1) / self.saves:
            self.saved += 1
            self.save(more["model"])

    def save(self, model: EsmForMaskedLM) -> None:
        """Saves the model in a folder of its own."""
        folder = self.out / f"{self.elapsed():.0f}s"
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def main() -> None:
    """Reads the arguments, trains, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fasta", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="from the start of the process to its end")
    parser.add_argument("--out", type=Path, required=True, help="folder of the saved models")
    parser.add_argument("--saves", type=int, default=8, help="number of saved models, the last one included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16, help="proteins")
    parser.add_argument("--crop", type=int, default=512, help="tokens")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=320)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    (arguments.out / "vocab.txt").write_text("\n".join(VOCABULARY))
    tokenizer = EsmTokenizer(str(arguments.out / "vocab.txt"))
    torch.manual_seed(arguments.seed)
    model = EsmForMaskedLM(
        EsmConfig(
            vocab_size=len(VOCABULARY), mask_token_id=tokenizer.mask_token_id, pad_token_id=tokenizer.pad_token_id,
            hidden_size=arguments.width, num_hidden_layers=arguments.layers, num_attention_heads=20,
            intermediate_size=4 * arguments.width, max_position_embeddings=1026, position_embedding_type="rotary",
            token_dropout=True, emb_layer_norm_before=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    clock = Clock(arguments.seconds, arguments.saves, arguments.out, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    on_cpu = not torch.cuda.is_available()
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(arguments.out / "trainer"), seed=arguments.seed, max_steps=10**9, save_strategy="no",
            per_device_train_batch_size=arguments.batch, bf16=multiplies_bf16("cpu" if on_cpu else "gpu"),
            use_cpu=on_cpu, max_grad_norm=0.5, report_to=[], disable_tqdm=True, logging_steps=20,
            dataloader_num_workers=1, dataloader_pin_memory=not on_cpu,
        ),
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        Proteins(arguments.fasta, tokenizer, arguments.crop),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, clock.rate)),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    clock.save(model)


if __name__ == "__main__":
    main()
