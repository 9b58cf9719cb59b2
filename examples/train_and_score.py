"""Trains a small protein language model and looks at what it learned: three minutes on two CPU cores.

Run it as a script, ``python examples/train_and_score.py``, or cell by cell in Jupyter or VS Code, which read the marks
``# %%``. Everything is written to the folder ``train_and_score``, or the one that ``EXAMPLE_FOLDER`` names.
``EXAMPLE_TRAINING`` replaces the keys of the run, 160 batches and three layers.
"""

# %% [markdown]
# # Train a protein language model, and look at what it learned
#
# A protein language model is trained to guess amino acids that are hidden from it. To guess well, it has to learn which
# residues a protein cannot do without. From what it learned one reads, without any further training, which mutations do
# harm, which residues depend on one another, and which proteins are alike.
#
# A model of all proteins takes days on many GPUs. This one takes two minutes on a laptop, because it learns
# one family: the ATP-binding proteins of ABC transporters, the motors that pump things through membranes.
#
# 1. Data: proteins of UniProt that come with the package
# 2. Train
# 3. Evaluate: better than guessing by frequency?
# 4. Score: every mutation of a protein
# 5. Contacts: which residues depend on one another?
# 6. Embed: proteins as points on a map

# %%
import os
import re
import shlex
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from plm_composer import contacts, embed, evaluate, load_model, scan, train
from plm_composer.plotting import BLUE, COLOURS, VERMILION, open_axes
from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.shards.inputs.fasta import read_fasta

FOLDER = Path(os.environ.get("EXAMPLE_FOLDER", "train_and_score"))
TRAINING = shlex.split(os.environ.get("EXAMPLE_TRAINING", "max_duration=160ba model.num_hidden_layers=3"))
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
FOLDER.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## 1. Data
# The package brings 8,401 proteins to train on, and 400 to test on: of the same families, but none like a training
# protein at 50 % identity or more. Of both we keep the family.


# %%
def read_family(fasta: Path) -> tuple[list[str], list[str]]:
    """Headers and residues of the ATP-binding proteins of a FASTA."""
    records = [(name, residues.decode()) for name, residues in read_fasta(fasta)]
    family = [record for record in records if re.search("ABC transporter|ATP-binding protein", record[0])]
    return [name for name, _ in family], [residues for _, residues in family]


def write_fasta(path: Path, names: list[str], proteins: list[str]) -> None:
    """Writes proteins as FASTA."""
    path.write_text("".join(f">{name}\n{residues}\n" for name, residues in zip(names, proteins, strict=True)))


names, proteins = read_family(TRAIN_FASTA)
val_names, val_proteins = read_family(VAL_FASTA)
write_fasta(FOLDER / "train.fasta", names, proteins)
write_fasta(FOLDER / "val.fasta", val_names, val_proteins)
print(f"{len(proteins)} proteins to train on, {sum(map(len, proteins)):,} residues; {len(val_proteins)} to test on")
print(f"the first: {names[0]}\n{proteins[0]}")

# %% [markdown]
# ## 2. Train
# `cramming_small` is one of the bundled configurations; each text is a `key=value` that changes it, as on the command
# line: `plm train cramming_small data.fasta=train.fasta data.val_fasta=val.fasta max_duration=160ba`. A batch (`ba`) is
# 16 proteins. Instead of `max_duration=160ba` one can write `budget=2min`, for as many batches as fit into two minutes.

# %%
run = train(
    "cramming_small",
    f"data.fasta={FOLDER}/train.fasta",
    f"data.val_fasta={FOLDER}/val.fasta",
    f"data.local={FOLDER}/shards",
    f"run_folder={FOLDER}/run",
    "save_overwrite=true",  # so that this cell can run again
    *TRAINING,
)
print(f"the run is in {run.folder}: its model, its metrics, and a report to open in a browser")

# %%
from plm_composer.report.series import read_metrics, smooth

metrics = read_metrics(run.folder / "metrics.jsonl")
tokens, losses = metrics.series(metrics.loss_name("train"), "tokens")
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(tokens / 1000, losses, color=BLUE, alpha=0.3, linewidth=0.8, label="each batch")
axes.plot(tokens / 1000, smooth(losses, 15), color=BLUE, label="mean of 15")
axes.set(xlabel="tokens seen, thousands", ylabel="loss, nats per hidden residue", title="Training")
axes.legend(frameon=False)
open_axes(axes)
figure.savefig(FOLDER / "training.png", dpi=150)

# %% [markdown]
# ## 3. Evaluate
# The loss is the mean of `-log p(residue)` over hidden residues, in nats. Two marks to compare it with: a model that
# takes all 20 amino acids for equally likely has `log 20`, about 3.00. One that knows how frequent each is, and nothing
# else, has the cross-entropy of these frequencies. What a model is below that, it reads from the residues around. The
# proteins to test on are those that it has never seen.


# %%
def frequencies(sequences: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shares of the 20 amino acids in some proteins."""
    counts = np.array([sum(sequence.count(residue) for sequence in sequences) for residue in RESIDUES])
    return counts / counts.sum()


model = load_model(run.folder)
by_frequency = -(frequencies(val_proteins) * np.log(frequencies(proteins))).sum()
score = evaluate(model, val_proteins)
print(f"equally likely        {np.log(20):.3f} nats")
print(f"residue frequencies   {by_frequency:.3f} nats")
print(f"the model             {score.loss:.3f} nats, perplexity {score.perplexity:.1f}, accuracy {score.accuracy:.1%}")

# %% [markdown]
# ## 4. Score mutations
# A deep mutational scan in silico: hide a residue, and compare how likely the model finds each other amino acid there,
# `log p(mutant) - log p(wild type)` (Meier et al. 2021). Below zero, the model expects harm.
#
# The protein is LolD, one of those to test on. Biochemists know what an ABC transporter cannot do without: Walker A,
# a loop that holds the phosphates of ATP; the signature `LSGG`; and Walker B, whose `DE` splits ATP. Nobody told the
# model. Are the positions where it expects the most harm those?
#
# With measured effects, such as a CSV of ProteinGym, `plm score` computes the rank correlation with them.

# %%
MOTIFS = {"Walker A": "G....GK[ST]", "signature": "LSGG", "Walker B": "[ILVMF]{3}.DE"}

lold = next(index for index, name in enumerate(val_names) if "LolD" in name)
protein = val_proteins[lold]
effects = scan(model, protein)  # (residues, 20)
harm = -effects.sum(axis=1) / 19  # mean over the 19 mutants of each position
spans = {motif: found.span() for motif, pattern in MOTIFS.items() if (found := re.search(pattern, protein))}

figure, (above, axes) = plt.subplots(
    2, 1, figsize=(12, 5), layout="constrained", sharex=True, height_ratios=(1, 2), gridspec_kw={"hspace": 0.02}
)
above.bar(range(1, len(protein) + 1), harm, width=1, color=BLUE)
above.set_ylabel("mean harm, nats")
open_axes(above)
for motif, (start, end) in spans.items():
    above.axvspan(start + 0.5, end + 0.5, color=VERMILION, alpha=0.25)
    above.annotate(motif, ((start + end) / 2, above.get_ylim()[1]), ha="center", va="bottom", fontsize=9)
figure.suptitle(val_names[lold].split("|")[-1].split(" OS=")[0])
limit = np.abs(effects).max()
extent = (0.5, len(protein) + 0.5, len(RESIDUES) - 0.5, -0.5)
image = axes.imshow(effects.T, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", extent=extent)
axes.set_yticks(range(len(RESIDUES)), list(RESIDUES), fontsize=7)
axes.set(xlabel="residue", ylabel="mutant")
figure.colorbar(image, ax=axes, label="log p(mutant) - log p(wild type)", pad=0.01)
figure.savefig(FOLDER / "scan.png", dpi=150)

worst = np.argsort(-harm)[:20]
print(f"most harm expected at {' '.join(f'{protein[index]}{index + 1}' for index in sorted(worst))}")
inside = sum(any(start <= index < end for start, end in spans.values()) for index in worst)
share = sum(end - start for start, end in spans.values()) / len(protein)
print(f"in the motifs: {inside / len(worst):.2f} of these, {share:.2f} of the protein")

# %% [markdown]
# ## 5. Contacts
# Substitute each residue by every other one and watch how far the predictions elsewhere move: residues that depend on
# one another are often those that touch (the categorical Jacobian, Zhang et al. 2024). Large models show the fold this
# way. One of two minutes sees neighbours along the chain, and hardly more. For a map to compare with, load a published
# ESM2: `load_model("esm2_t6_8M_UR50D")`, its folder from Hugging Face. Each residue takes 19 passes of the model, so
# this looks at the first half of the protein.

# %%
piece = protein[:110]
(pair_scores,) = contacts(model, [piece], method="jacobian")  # (residues, residues)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
shown = np.clip(pair_scores, 0, np.quantile(pair_scores, 0.99))
image = left.imshow(shown, cmap="Greys", origin="lower", extent=(0.5, len(piece) + 0.5, 0.5, len(piece) + 0.5))
left.set(title="Residues that depend on one another", xlabel="residue", ylabel="residue")
figure.colorbar(image, ax=left, label="score of the pair")
separations = range(1, 31)
means = [np.diagonal(pair_scores, separation).mean() for separation in separations]
right.plot(separations, means, color=BLUE, marker="o", markersize=3)
right.set(title="By distance along the chain", xlabel="separation, residues", ylabel="mean score")
open_axes(right)
figure.savefig(FOLDER / "contacts.png", dpi=150)

# %% [markdown]
# ## 6. Embed
# A protein's embedding is the mean of the model's hidden states over its residues, here 192 numbers. Two principal
# components are shown: coloured by what the protein pumps, and by how long it is.

# %%
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

KINDS = {"MetN": "methionine", "CysA": "sulfate", "PotA": "spermidine", "EcfA": "vitamins", "RbsA": "ribose"}
kinds = [next((kind for kind in KINDS if f"protein {kind}" in name), None) for name in names]
chosen = [index for index, kind in enumerate(kinds) if kind]
embeddings = embed(model, [proteins[index] for index in chosen]).values  # (proteins, 192)
points = PCA(2).fit_transform(StandardScaler().fit_transform(embeddings))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for (kind, cargo), colour in zip(KINDS.items(), COLOURS, strict=False):
    members = np.array([kinds[index] == kind for index in chosen])
    left.scatter(*points[members].T, s=16, color=colour, label=f"{kind}, {cargo}")
left.legend(fontsize=8)
left.set(title="By cargo", xlabel="first component", ylabel="second component")
image = right.scatter(*points.T, s=16, c=[len(proteins[index]) for index in chosen], cmap="viridis")
right.set(title="By length", xlabel="first component", ylabel="second component")
figure.colorbar(image, ax=right, label="residues")
for axes in (left, right):
    open_axes(axes)
figure.savefig(FOLDER / "embeddings.png", dpi=150)
print(f"plots: {', '.join(sorted(path.name for path in FOLDER.glob('*.png')))} in {FOLDER}")

# %% [markdown]
# ## Go on
# - Train longer, with `TRAINING = ["budget=10min"]`: what changes in each plot?
# - Choose another family of the sample, or your own proteins, in `read_family`.
# - Open `train_and_score/run/report.html`, the report of the run.
# - Compare with measured mutations: `plm score train_and_score/run ASSAY.csv`.
