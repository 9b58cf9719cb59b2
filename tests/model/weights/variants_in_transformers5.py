"""Runs with transformers 5 on the path: loads the model of each folder, computes its batch, and saves it again."""

import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        causal = AutoConfig.from_pretrained(folder, trust_remote_code=True).architecture.causal
        auto = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        assert not any(info.values()), info
        batch = torch.load(folder / "batch.pt")
        model.eval()
        with torch.no_grad():
            plain = model(**batch)
            full = model(**batch, output_attentions=True, output_hidden_states=True)
            hidden = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**batch).last_hidden_state
        assert len(full.attentions) + 1 == len(full.hidden_states)
        torch.testing.assert_close(hidden, full.hidden_states[-1], rtol=0, atol=1e-5)
        if causal:
            prompt = batch["input_ids"][:1, :4]
            with torch.no_grad():
                likeliest = model(prompt).logits[:, -1:].argmax(-1)
            assert torch.equal(model.generate(prompt, max_new_tokens=1, do_sample=False)[:, 4:], likeliest)
        torch.save({"logits": plain.logits, "eager": full.logits}, folder / "found.pt")
        model.save_pretrained(folder / "saved")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        assert tokenizer(["MK"])["input_ids"] == [[0, 20, 15, 2]]
    classifier = AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True, num_labels=4)
    classifier.gradient_checkpointing_enable()
    classifier.train()(**batch, labels=batch["input_ids"] % 4).loss.backward()
    assert classifier.classifier.weight.std() < 0.1  # new weights are made as the config says
    assert classifier.blocks[0].attention.qkv.weight.grad is not None
    again = AutoModelForMaskedLM.from_pretrained(folder / "saved", trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, plain.logits)
