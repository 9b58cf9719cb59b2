"""The code that the folder of a variant brings: in ``transformers`` it computes what our model computes."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    EsmModel,
    T5EncoderModel,
    pipeline,
)

from plm_composer.errors import UserError
from plm_composer.inference.load import load_model, load_trained
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights import remote_code
from plm_composer.model.weights.huggingface_config import CODE_FILES
from plm_composer.model.weights.huggingface_folder import (
    check_huggingface,
    load_huggingface,
    loader,
    read_config,
    save_huggingface,
)
from plm_composer.model.weights.remote_code import configuration_plm_composer as configuration
from plm_composer.tokenizer import CLS_ID, EOS_ID, MASK_ID, PAD_ID, VOCABULARY
from tests.model.small_models import close, make_model
from tests.model.weights.exported import CHANGES, TRUSTED, proteins, variant

pytestmark = pytest.mark.usefixtures("modules_cache")
TRANSFORMERS_5 = Path(sys.prefix) / "transformers5"
SAME = 1e-5


@functools.cache
def ours(name: str) -> ESM2:
    return make_model(variant(name))


def export(name: str, folder: Path) -> ESM2:
    save_huggingface(ours(name), folder)
    return ours(name)


def theirs(folder: Path, auto: Any = None, **options: Any) -> Any:
    auto = auto or (AutoModelForCausalLM if read_config(folder).causal else AutoModelForMaskedLM)
    model, info = auto.from_pretrained(folder, output_loading_info=True, **TRUSTED, **options)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("name", CHANGES)
@torch.no_grad()
def test_every_variant_has_our_logits_padding_and_contacts(name: str, tmp_path: Path) -> None:
    own, model = export(name, tmp_path), theirs(tmp_path)
    batch = proteins(tmp_path)
    tokens = batch["attention_mask"].bool()
    logits = model(**batch).logits
    assert logits.dtype == torch.float32
    close(logits[tokens], own(**batch)[tokens], SAME)
    close(model(batch["input_ids"]).logits[tokens], logits[tokens], 0)  # without the mask: all but <pad>
    for protein, mask, padded in zip(batch["input_ids"], tokens, logits, strict=True):
        close(model(protein[mask][None]).logits[0], padded[mask], SAME)
    hidden = AutoModel.from_pretrained(tmp_path, **TRUSTED).eval()(**batch).last_hidden_state
    close(hidden[tokens], own.hidden_states(**batch)[tokens], SAME)
    precise = copy.deepcopy(own).double()(**batch)
    close(theirs(tmp_path).double()(**batch).logits[tokens], precise[tokens], 1e-10)
    residues = (tokens & (batch["input_ids"] != EOS_ID))[:, 1:-1]
    if own.config.contact_head:
        found, expected = (each.predict_contacts(batch["input_ids"], batch["attention_mask"]) for each in (model, own))
        close(found[residues], expected[residues], SAME)
    else:
        with pytest.raises(ValueError, match="no contact head"):
            model.predict_contacts(batch["input_ids"])


@pytest.mark.parametrize("name", ["causal", "causal, alibi, convolution"])
@torch.no_grad()
def test_a_causal_model_generates(name: str, tmp_path: Path) -> None:
    own, model = export(name, tmp_path), theirs(tmp_path)
    assert loader(own.config).startswith("transformers.AutoModelForCausalLM.")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, **TRUSTED)
    prompt = torch.tensor([[CLS_ID, *tokenizer.convert_tokens_to_ids(list("MKV"))]])
    found = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=PAD_ID)
    expected = prompt
    while expected.shape[1] < found.shape[1]:
        expected = torch.cat([expected, own(expected)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, expected)
    drawn = model.generate(prompt.repeat(3, 1), max_new_tokens=5, do_sample=True, top_p=0.9, pad_token_id=PAD_ID)
    assert drawn.shape[0] == 3
    # Padding on the left, as for prompts of several lengths.
    padded = torch.cat([torch.full((1, 2), PAD_ID), prompt], dim=1)
    close(model(padded, attention_mask=(padded != PAD_ID).long()).logits[:, 2:], model(prompt).logits, SAME)
    labels = prompt.clone()
    loss = F.cross_entropy(model(prompt).logits[0, :-1], labels[0, 1:])
    close(model(prompt, labels=labels).loss, loss, SAME)


@pytest.mark.parametrize("name", ["everything, rotary", "everything, alibi"])
@torch.no_grad()
def test_attention_maps_and_hidden_states(name: str, tmp_path: Path) -> None:
    own = export(name, tmp_path)
    batch = proteins(tmp_path)
    size, length = batch["input_ids"].shape
    tokens = batch["attention_mask"].bool()
    plain = theirs(tmp_path)(**batch)
    assert plain.attentions is None and plain.hidden_states is None
    full = theirs(tmp_path)(**batch, output_attentions=True, output_hidden_states=True)
    close(full.logits[tokens], plain.logits[tokens], SAME)
    config = own.config
    assert [tuple(each.shape) for each in full.attentions] == [
        (size, config.num_attention_heads, length, length)
    ] * config.num_hidden_layers
    for maps in full.attentions:
        close(maps.sum(-1), torch.ones(maps.shape[:-1]), SAME)
        assert not maps.masked_select(~tokens[:, None, None, :]).any()  # nothing attends to padding
    assert len(full.hidden_states) == config.num_hidden_layers + 1
    close(full.hidden_states[-1][tokens], own.hidden_states(**batch)[tokens], SAME)
    eager = theirs(tmp_path, attn_implementation="eager")(**batch, output_hidden_states=True, return_dict=False)
    assert len(eager) == 2  # a tuple: logits and hidden states
    close(eager[0][tokens], plain.logits[tokens], SAME)
    close(eager[1][0], full.hidden_states[0], 0)


def test_loss_and_gradients_with_and_without_checkpointing(tmp_path: Path) -> None:
    own = export("everything, rotary", tmp_path)
    batch = proteins(tmp_path)
    labels = torch.where(batch["input_ids"] == MASK_ID, 5, -100)
    gradients = []
    for checkpointing in (False, True):
        model = theirs(tmp_path).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = model(**batch, labels=labels).loss
        close(loss, F.cross_entropy(own(**batch)[labels >= 0], labels[labels >= 0]), SAME)
        loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() > {"blocks.0.convolution.weight", "decoder.weight"}
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient, SAME)


@torch.no_grad()
def test_embeddings_in_place_of_ids(tmp_path: Path) -> None:
    export("cramming", tmp_path)
    model, batch = theirs(tmp_path), proteins(tmp_path)
    ids = batch["input_ids"].masked_fill(batch["input_ids"] == MASK_ID, 5)
    rows = model.get_input_embeddings()(ids)
    mask = batch["attention_mask"]
    close(model(inputs_embeds=rows, attention_mask=mask).logits, model(ids, mask).logits, 0)
    close(model(inputs_embeds=rows[:1]).logits, model(ids[:1]).logits, 0)  # the longest one has no padding
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": rows}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(**wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    for name in ("everything, rotary", "everything, alibi"):
        export(name, tmp_path / name)
        model = theirs(tmp_path / name, torch_dtype=dtype)
        batch = proteins(tmp_path / name)
        tokens = batch["attention_mask"].bool()
        logits = model(**batch).logits
        assert logits.dtype == torch.float32 and model.dtype == dtype
        expected = ours(name)(**batch)
        assert F.cosine_similarity(logits[tokens], expected[tokens]).min() > 0.99
        # What is saved in half precision is read by us, and by them in the dtype that the config names.
        model.save_pretrained(tmp_path / name / "half")
        assert theirs(tmp_path / name / "half", torch_dtype="auto").dtype == dtype
        assert torch.equal(load_model(tmp_path / name / "half").state_dict()["embedding.weight"],
                           model.embedding.weight.float())  # fmt: skip


@pytest.mark.parametrize("name", ["cramming", "everything, rotary", "wide heads"])
@torch.no_grad()
def test_what_transformers_trained_and_saved_comes_back(name: str, tmp_path: Path) -> None:
    export(name, tmp_path / "export")
    model = theirs(tmp_path / "export")
    for parameter in model.parameters():
        parameter.mul_(1.1)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB" if name == "cramming" else "1GB")
    assert {*CODE_FILES, "config.json"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    check_huggingface(tmp_path / "saved")
    config, state_dict = load_huggingface(tmp_path / "saved")
    assert config == ours(name).config
    assert all(torch.equal(value, state_dict[key]) for key, value in model.state_dict().items())
    again = theirs(tmp_path / "saved")
    batch = proteins(tmp_path / "export")
    close(again(**batch).logits, model(**batch).logits, 0)
    # And an export of what we read is one again.
    save_huggingface(load_model(tmp_path / "saved"), tmp_path / "again")
    close(theirs(tmp_path / "again")(**batch).logits, model(**batch).logits, 0)


@pytest.mark.parametrize("name", ["cramming", "everything, rotary"])
@pytest.mark.parametrize(
    ("auto", "labels"),
    [
        (AutoModelForSequenceClassification, torch.tensor([0, 2, 1])),
        (AutoModelForSequenceClassification, torch.eye(3)),
        (AutoModelForTokenClassification, None),
        (AutoModel, None),
    ],
    ids=["one class", "several classes", "residues", "no head"],
)
def test_classifiers_learn_and_are_read_without_their_head(
    name: str, auto: Any, labels: torch.Tensor | None, tmp_path: Path
) -> None:
    own = export(name, tmp_path / "export")
    model = auto.from_pretrained(tmp_path / "export", num_labels=3, **TRUSTED)
    batch = proteins(tmp_path / "export")
    if auto is not AutoModel:
        labels = batch["input_ids"] % 3 if labels is None else labels
        output = model(**batch, labels=labels)
        of_residues = auto is AutoModelForTokenClassification
        assert output.logits.shape == ((*batch["input_ids"].shape, 3) if of_residues else (3, 3))
        output.loss.backward()
        assert all(each.grad is not None for each in model.classifier.parameters())
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="holds no language-model head"):
        load_huggingface(tmp_path / "saved")
    read = load_trained(tmp_path / "saved", head_required=False).model
    with torch.no_grad():
        close(read.hidden_states(**batch), own.hidden_states(**batch), 0)
    assert auto.from_pretrained(tmp_path / "saved", **TRUSTED).config.num_labels == 3


@torch.no_grad()
def test_a_causal_model_classifies_by_its_last_token(tmp_path: Path) -> None:
    export("causal", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, **TRUSTED).eval()
    batch = proteins(tmp_path)
    together = model(**batch).logits
    assert (together[0] - together[1]).abs().max() > 1e-4
    for ids, mask, found in zip(batch["input_ids"], batch["attention_mask"], together, strict=True):
        close(model(ids[mask.bool()][None]).logits[0], found, SAME)


def test_regression(tmp_path: Path) -> None:
    export("wide heads", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1, **TRUSTED)
    batch, labels = proteins(tmp_path), torch.tensor([0.5, 1.0, -2.0])
    output = model(**batch, labels=labels)
    close(output.loss, F.mse_loss(output.logits[:, 0], labels), 0)


def test_the_folder_says_what_it_is_and_needs_trust(tmp_path: Path) -> None:
    own = export("cramming", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, **TRUSTED)
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
        assert getattr(config, name) == getattr(own.config, name)
    assert (config.vocab_size, config.pad_token_id, config.mask_token_id) == (33, PAD_ID, MASK_ID)
    assert load_file(tmp_path / "model.safetensors").keys() == own.state_dict().keys()
    assert AutoTokenizer.from_pretrained(tmp_path)("MK")["input_ids"] == [0, 20, 15, 2]
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=False)
    for other in (EsmModel, T5EncoderModel):  # T5 is what biotrainer tries last
        with pytest.raises((ValueError, TypeError)):
            other.from_pretrained(tmp_path)
    best = pipeline("fill-mask", model=str(tmp_path), **TRUSTED)("MKV<mask>LL", top_k=1)[0]
    assert best["token_str"] in VOCABULARY


def test_our_loader_runs_none_of_the_code_and_needs_none(tmp_path: Path) -> None:
    own = export("cramming", tmp_path)
    for name in CODE_FILES:
        (tmp_path / name).write_text("raise SystemExit('this ran')\n")
    for trust in (False, True):
        assert all(torch.equal(value, own.state_dict()[key]) for key, value in
                   load_model(tmp_path, trust).state_dict().items())  # fmt: skip
    # An export of before had no code, and only these keys.
    for name in CODE_FILES:
        (tmp_path / name).unlink()
    section = json.loads((tmp_path / "config.json").read_text())["plm_composer"]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "plm_composer", "plm_composer": section}))
    assert load_huggingface(tmp_path)[0] == own.config


def test_the_code_knows_every_field_and_imports_nothing_of_the_package() -> None:
    known = [field.name for field in dataclasses.fields(configuration.Architecture)]
    assert known == [field.name for field in dataclasses.fields(ESM2Config)]
    assert (configuration.CLS_ID, configuration.PAD_ID, configuration.EOS_ID, configuration.MASK_ID) == (
        CLS_ID, PAD_ID, EOS_ID, MASK_ID,
    )  # fmt: skip
    assert len(VOCABULARY) == configuration.VOCABULARY_SIZE
    for name in CODE_FILES:
        source = (Path(remote_code.__file__).parent / name).read_text()
        roots = {
            (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        }
        assert roots <= {"__future__", "collections", "dataclasses", "math", "typing", "torch", "transformers"}


@torch.no_grad()
def test_transformers_5_says_the_same_and_saves_what_we_read(tmp_path: Path) -> None:
    if not TRANSFORMERS_5.is_dir():
        pytest.skip("no transformers 5; `make test` installs it")
    names = ["alibi, 3 heads, qk_norm", "cramming", "rmsnorm", "swiglu", "untied", "causal", "everything, rotary"]
    for name in names:
        export(name, tmp_path / name)
        torch.save(proteins(tmp_path / name), tmp_path / name / "batch.pt")
    script = Path(__file__).with_name("variants_in_transformers5.py")
    environment = {**os.environ, "PYTHONPATH": str(TRANSFORMERS_5), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    folders = [str(tmp_path / name) for name in names]
    result = subprocess.run([sys.executable, script, *folders], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in names:
        batch, found = torch.load(tmp_path / name / "batch.pt"), torch.load(tmp_path / name / "found.pt")
        tokens, expected = batch["attention_mask"].bool(), ours(name)(**batch)
        for kind in ("logits", "eager"):
            close(found[kind][tokens], expected[tokens], SAME)
        saved = load_model(tmp_path / name / "saved")
        assert all(torch.equal(value, ours(name).state_dict()[key]) for key, value in saved.state_dict().items())
