"""`docs/findings.md`: what the models refute, written from evidence files and the words of `docs/findings.toml`.

    python -m reports.findings reports/out/embedded-tiny reports/out/embedded-small

Numbers come from the evidence, explanations from the file. A refutation without an explanation is an error, and so
is an explanation of something that is not refuted. `--check` writes nothing and fails where the document is not what
the evidence says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awq_core.judging.evidence import Verdict
from awq_core.quantization.quantizers import DEPLOYED
from reports.command import Parser
from reports.evidence_file import read_evidence
from reports.explanations import Explanations, FindingsError, read_explanations
from reports.verdict_words import (
    APPEARANCES,
    Claim,
    catalogue_order,
    grouping,
    interval_text,
    number,
    threshold_text,
    verdict_of,
)

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "findings.md"
EXPLANATIONS = ROOT / "docs" / "findings.toml"
MODELS_JOINED = " and "


@dataclass(frozen=True)
class Refuted:
    """A claim and those who refute it: each a model, or for replication two sizes of a family."""

    key: str
    by: dict[str, Claim]
    """Evidence by the models' names, joined with `and`."""

    @property
    def claim(self) -> Claim:
        """What is the same in all of its evidence: words, source, threshold, unit."""
        return next(iter(self.by.values()))


def refuted_claims(records: Sequence[dict[str, Any]]) -> list[Refuted]:
    """Every refuted claim in the catalogue's order, its models in the records' order.

    Raises:
        FindingsError: if two records hold a claim in different versions.
    """
    found: dict[str, Refuted] = {}
    for claim in (claim for record in records for claim in record["claims"]):
        if verdict_of(claim) is Verdict.REFUTED:
            entry = found.setdefault(claim["key"], Refuted(claim["key"], {}))
            if entry.by and entry.claim["version"] != claim["version"]:
                raise FindingsError(f"{claim['key']!r} was judged in two versions; run the claims again")
            entry.by.setdefault(MODELS_JOINED.join(claim["models"]), claim)
    return sorted(found.values(), key=lambda entry: catalogue_order(entry.claim))


def document(records: Sequence[dict[str, Any]], explanations: Explanations, command: str) -> str:
    """The whole document.

    Args:
        records: evidence, one for each model.
        explanations: why claims are refuted.
        command: how the document itself is written.

    Raises:
        FindingsError: if evidence is partial or given twice, or explanations and evidence do not fit each other.
    """
    named = [record["model"]["name"] for record in records]
    if twice := {name for name in named if named.count(name) > 1}:
        raise FindingsError(f"the evidence of {min(twice)} is given twice")
    for record in records:
        if not record["complete"]:
            raise FindingsError(f"the evidence of {record['model']['name']} is partial; run the suite to its end first")
    refuted = refuted_claims(records)
    keys = {claim["key"] for record in records for claim in record["claims"]}
    explanations.check({entry.key: list(entry.by) for entry in refuted}, {*named, *keys})
    parts = [_introduction(records, refuted, explanations, command)]
    if refuted:
        parts += [_table(records, refuted), *(_section(entry, explanations) for entry in refuted)]
    return "\n\n".join(parts) + "\n"


def _introduction(
    records: Sequence[dict[str, Any]], refuted: Sequence[Refuted], explanations: Explanations, command: str
) -> str:
    judged = {claim["key"] for record in records for claim in record["claims"]}
    about = explanations.models
    models = "\n".join(
        " ".join(filter(None, [f"- {_conditions(record['model'])}.", about.get(record["model"]["name"], "")]))
        for record in records
    )
    commands = "\n".join([*dict.fromkeys(_command(record) for record in records), command])
    return (
        "# What the models refute\n\n"
        "A claim is refuted on a model when the whole 95% interval of its estimate lies on the wrong side of a "
        "threshold that was registered before anyone measured. It says that the claim, as worded, does not hold there "
        "by the margin that would be worth having; of other models, and of smaller effects, it says nothing. With this "
        "many claims a few verdicts are false by chance: each model's report marks which survive Holm's correction. "
        "The untrained twin is the same architecture before any training.\n\n"
        f"Of {len(judged)} claims, counted once for each precision, {len(refuted)} came out refuted on at least one "
        "of these models:\n\n"
        f"{models}\n\nTo repeat it:\n\n```bash\n{commands}\n```"
    )


def _conditions(model: dict[str, Any]) -> str:
    return (
        f"**{model['name']}**: {model['parameters']:,} parameters, revision {model['revision']}, effort "
        f"{model['effort']}, {model['dtype']}, {model['device']}, {grouping(model)}, seed {model['seed']}; "
        f"calibrated on {model['calibration_text']}, judged on {model['heldout_text']}"
    )


def _command(record: dict[str, Any]) -> str:
    """The run that this evidence comes from: two sizes together where claims about two sizes were judged."""
    model = record["model"]
    together = max((claim["models"] for claim in record["claims"]), key=len, default=[model["name"]])
    options = " ".join(f"--model {name}" for name in together)
    # A control has no effort to choose.
    effort = "" if model["effort"] == "control" else f" --effort {model['effort']}"
    size = model.get("group_size", DEPLOYED.group_size)
    effort += "" if size == DEPLOYED.group_size else f" --group-size {size}"
    folder = "AWQ_CLAIMS_MODELS=FOLDER " if model.get("kind") == "folder" else ""
    return f"{folder}pytest claims {options}{effort} --seed {model['seed']}"


def _table(records: Sequence[dict[str, Any]], refuted: Sequence[Refuted]) -> str:
    """Refuted claims down, models across; what did not refute it shows its own verdict's symbol."""
    names = [record["model"]["name"] for record in records]
    lines = ["| claim | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for entry in refuted:
        cells = []
        for record in records:
            verdicts = [verdict_of(claim) for claim in record["claims"] if claim["key"] == entry.key]
            shown = Verdict.REFUTED if Verdict.REFUTED in verdicts else next(iter(verdicts), None)
            cells.append(APPEARANCES[shown].symbol if shown else "")
        lines.append(f"| [`{entry.key}`](#{_anchor(entry.key)}) | " + " | ".join(cells) + " |")
    legend = ", ".join(f"{look.symbol} {verdict}" for verdict, look in APPEARANCES.items())
    return "\n".join([*lines, "", f"{legend}; `@4` and `@3` are bits."])


def _section(entry: Refuted, explanations: Explanations) -> str:
    claim = entry.claim
    head = (
        f"## {entry.key}\n\n> {claim['words']}.\n\nSource: {claim['source']}. "
        f"Supported if {threshold_text(claim)} ({claim['unit']})."
    )
    parts = [head, *(_by(name, found, explanations.of(entry.key, name)) for name, found in entry.by.items())]
    if general := explanations.general(entry.key):
        parts.append(general)
    return "\n\n".join(parts)


def _by(name: str, claim: Claim, words: str) -> str:
    interval = claim["interval"]
    twin = "none to ask" if claim["twin_estimate"] is None else number(claim["twin_estimate"])
    over = f" over {interval['n']} {interval['resampled']}" if interval else ""
    part = f" ({claim['deciding_part']})" if claim["deciding_part"] is not None else ""
    lines = [f"**{name}**{part}: {number(claim['estimate'])} {interval_text(claim)}{over}; untrained twin: {twin}."]
    if claim["contrary"]:
        what = claim["ranking"]
        named = ", ".join(f"`{item['name']}` {number(item['value'])}" for item in claim["contrary"])
        lines.append(f"{what[0].upper()}{what[1:]}: {named}.")
    if words:
        lines.append(words)
    return "\n".join(lines)


def _anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it: lower case, without punctuation but hyphens."""
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter == "-")


def main() -> None:
    """Command line: output folders of models."""
    parser = Parser(
        prog="python -m reports.findings",
        description="Write docs/findings.md from evidence files and docs/findings.toml.",
    )
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that hold evidence.json")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the document is out of date")
    arguments = parser.parse_args()
    names = " ".join(f"reports/out/{output.name}" for output in arguments.outputs)
    try:
        records = [read_evidence(output / "evidence.json") for output in arguments.outputs]
        text = document(records, read_explanations(EXPLANATIONS), f"python -m reports.findings {names}")
    except (ValueError, OSError) as problem:
        parser.error(str(problem))
    if not arguments.check:
        DOCUMENT.write_text(text, encoding="utf-8")
    elif not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{DOCUMENT.name} is not what the evidence says; run python -m reports.findings")


if __name__ == "__main__":
    main()
