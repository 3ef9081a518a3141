"""Register the verdicts of a run: writes `claims/deviations/<model>.toml` from its evidence.

    python -m claims.register reports/out/embedded-tiny reports/out/embedded-small

Reasons already given by hand are kept where the claim still has the same verdict.
"""

from __future__ import annotations

from pathlib import Path

from awq_core.judging.evidence import Evidence
from claims.support.catalogue import whole_catalogue
from claims.support.deviations import FOLDER, DeviationsError, read_deviations, write_deviations
from fixtures.measuring.stages import EVERY, in_words
from reports.command import Parser
from reports.evidence_file import read_evidence


def main() -> None:
    """Command line: output folders of models, as `--output` wrote them."""
    parser = Parser(
        prog="python -m claims.register", description="Register the verdicts of a run as a model's known deviations."
    )
    parser.add_argument("outputs", nargs="+", type=Path, help="folders that hold evidence.json")
    for output in parser.parse_args().outputs:
        try:
            record = read_evidence(output / "evidence.json")
        except ValueError as problem:
            parser.error(str(problem))
        if not record["complete"]:
            parser.error(f"{output}/evidence.json is partial; run the suite to its end first")
        model = record["model"]["name"]
        if left_out := EVERY - set(record["model"].get("stages", EVERY)):
            parser.error(f"{output}/evidence.json lacks {in_words(left_out)}; run all claims, all stages")
        judged = [Evidence.from_dict(plain) for plain in record["claims"]]
        catalogue = whole_catalogue()
        every = {key for claim in catalogue.values() for key in claim.keys()}  # noqa: SIM118 -- not a dict
        if missing := every - {e.key for e in judged}:
            parser.error(f"{output}/evidence.json lacks {len(missing)} claims, such as {min(missing)}")
        # A claim about two sizes is registered with the larger one, and only where there were two.
        alone = [e for e in judged if catalogue[e.id].level == "pair" and len(e.models) < 2]
        evidence = [e for e in judged if e.models[-1] == model and e not in alone]
        try:
            known = read_deviations(model).entries
        except DeviationsError:
            known = {}
        kept = {
            e.key: known[e.key].reason
            for e in evidence
            if e.key in known and known[e.key].verdict is e.verdict and not known[e.key].reason.startswith("measured ")
        }
        write_deviations(FOLDER / f"{model}.toml", model, evidence, record["model"], kept)
        print(f"wrote {FOLDER / f'{model}.toml'}")


if __name__ == "__main__":
    main()
