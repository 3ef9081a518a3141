"""Register the verdicts of a run: writes `claims/deviations/<model>.toml` from its evidence.

    python -m claims.register reports/out/embedded-tiny reports/out/embedded-small
    python -m claims.register --claims-deviations ../my_claims/deviations reports/out/embedded-tiny

With `--claims-deviations` the verdicts of claims from other folders are registered, in the folder given.
Reasons already given by hand are kept where the claim still has the same verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from awq_core.judging.evidence import Evidence
from claims.support.catalogue import the_suites_own
from claims.support.deviations import FOLDER, Deviations, DeviationsError, read_deviations, write_deviations
from claims.support.judge import is_about_the_model
from fixtures.measuring.stages import EVERY, in_words
from reports.command import Parser
from reports.evidence_file import read_evidence


def main() -> None:
    """Command line: output folders of models, as `--output` wrote them."""
    parser = Parser(
        prog="python -m claims.register", description="Register the verdicts of a run as a model's known deviations."
    )
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that hold evidence.json")
    parser.add_argument(
        "--claims-deviations", type=Path, metavar="DIR", help="register claims from elsewhere than the suite, in DIR"
    )
    chosen = parser.parse_args()
    for output in chosen.outputs:
        try:
            record = read_evidence(output / "evidence.json")
            if not record["complete"]:
                raise ValueError(f"{output}/evidence.json is partial; run the suite to its end first")
            print(f"wrote {_register(record, output / 'evidence.json', chosen.claims_deviations)}")
        except ValueError as problem:
            parser.error(str(problem))


def _register(record: dict[str, Any], path: Path, elsewhere: Path | None) -> Path:
    """Write a model's file from the evidence of a complete run.

    Raises:
        ValueError: if the evidence lacks claims that are to be registered.
    """
    model = record["model"]["name"]
    suite = the_suites_own()
    judged = [Evidence.from_dict(plain) for plain in record["claims"]]
    if elsewhere is None:
        if left_out := EVERY - set(record["model"].get("stages", EVERY)):
            raise ValueError(f"{path} lacks {in_words(left_out)}; run all claims, all stages")
        if missing := {key for claim in suite.values() for key in claim.keys()} - {e.key for e in judged}:  # noqa: SIM118
            raise ValueError(f"{path} lacks {len(missing)} claims, such as {min(missing)}")
    # A claim about two sizes is registered with the larger one, and only where there were two.
    evidence = [e for e in judged if e.models[-1] == model and (e.id in suite) == (elsewhere is None)]
    evidence = list(filter(is_about_the_model, evidence))
    if not evidence:
        raise ValueError(f"{path} holds no claim from elsewhere; run those claims, or leave out --claims-deviations")
    folder = elsewhere or FOLDER
    try:
        before = read_deviations(model, folder)
    except DeviationsError:
        before = Deviations({}, {})
    known = before.entries
    # A run may have collected some of a folder's claims: what is registered of the others stays.
    others = [entry for key, entry in known.items() if elsewhere is not None and key not in {e.key for e in evidence}]
    if others and (unmet := before.unmet(record["model"])):
        raise ValueError(
            f"{path} lacks {others[0].claim}, registered under other conditions ({', '.join(unmet)}); "
            "run all claims of the folder"
        )
    kept = {
        e.key: known[e.key].reason
        for e in evidence
        if e.key in known and known[e.key].verdict is e.verdict and not known[e.key].reason.startswith("measured ")
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{model}.toml"
    write_deviations(written, model, evidence, record["model"], kept, others)
    return written


if __name__ == "__main__":
    main()
