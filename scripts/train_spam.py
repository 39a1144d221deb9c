"""Trains the teacher of recipes/spam.yaml into recipes/spam/teacher (about 10 minutes on two cores).

MiniLM with a classification head, on the training samples that the recipe's prepare stage leaves: the test mails are
looked at once, for the figure that is printed last.
"""

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
sys.path.insert(0, str(ROOT))
from pipeline.data import Split, label_names, load_split  # noqa: E402
from pipeline.recipe import DataSource  # noqa: E402
from pipeline.stage import Work  # noqa: E402
from pipeline.stages.prepare import Prepare  # noqa: E402
from pipeline.tasks.text_classification import TextClassification  # noqa: E402
from pipeline.training import computes_in_bfloat16  # noqa: E402


def prepare(out: Path) -> None:
    """The recipe's own splits. The teacher's tokenizer is MiniLM's, unchanged, so that a build gets the same ones."""
    recipe = yaml.safe_load((RECIPES / "spam.yaml").read_text())
    work = Work(out, out, RECIPES, nullcontext, lambda _, text: print(text, flush=True))
    task = TextClassification(**recipe["task"]["text-classification"])
    Prepare()(work, task=task, source=DataSource(**recipe["data"]), tokenizer="spam/minilm")


def tensors(split: Split) -> dict[str, torch.Tensor]:
    """Token ids and mask, [n, length] int64, and labels, [n] int64."""
    columns = {name: torch.tensor(array) for name, array in split.columns.items()}
    return {**columns, "labels": torch.tensor(split.labels)}


def accuracy(model: torch.nn.Module, data: dict[str, torch.Tensor]) -> float:
    """Share of the samples whose largest logit is the label's."""
    model.eval()
    correct = 0
    with torch.no_grad():
        for index in torch.arange(len(data["labels"])).split(128):
            logits = model(input_ids=data["input_ids"][index], attention_mask=data["attention_mask"][index]).logits
            correct += int((logits.argmax(1) == data["labels"][index]).sum())
    return correct / len(data["labels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-5, help="the highest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, logging

    logging.set_verbosity_error()  # it would say that the head is new
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        prepare(data)
        names = label_names(data)
        splits = {name: tensors(load_split(data, name)) for name in ("train", "validation", "test")}
    model = AutoModelForSequenceClassification.from_pretrained(
        RECIPES / "spam/minilm",
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    train, batch = splits["train"], 32
    steps = -(-len(train["labels"]) // batch) * arguments.epochs
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, arguments.rate)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    bfloat16 = computes_in_bfloat16("auto")
    order = torch.Generator().manual_seed(0)
    for epoch in range(arguments.epochs):
        start = time.time()
        model.train()
        for index in torch.randperm(len(train["labels"]), generator=order).split(batch):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = model(**{name: column[index] for name, column in train.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        validation = accuracy(model, splits["validation"])
        seconds = time.time() - start
        print(f"epoch {epoch + 1}/{arguments.epochs}: validation {validation:.4f}, {seconds:.0f} s", flush=True)
    save(model)
    print(f"test accuracy {accuracy(model, splits['test']):.4f} on {len(splits['test']['labels'])} mails")


def save(model: torch.nn.Module) -> None:
    """Writes the Hugging Face folder whole or not at all."""
    out = RECIPES / "spam/teacher"
    new = out.with_name(".teacher")
    shutil.rmtree(new, ignore_errors=True)
    model.save_pretrained(new)  # pyright: ignore[reportCallIssue]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(RECIPES / "spam/minilm" / name, new / name)
    if out.is_dir():
        out.rename(out.with_name(".teacher.old"))
    new.rename(out)
    shutil.rmtree(out.with_name(".teacher.old"), ignore_errors=True)


if __name__ == "__main__":
    main()
