"""The verbs that rank: a run on unseen domains, and the protocols that say which."""

from dataclasses import asdict

import click

from rayreid.cli.options import chosen_round, counter, protocol_options


@click.command()
@click.argument("run")
@click.option("--target", "targets", multiple=True, metavar="LAYOUT=LOCATION",
              help="A domain to rank, e.g. market1501=/data/Market-1501; repeatable.")  # fmt: skip
@protocol_options
@click.option("--temporal-lift", is_flag=True,
              help="Also rank by scores lifted by the crops' times (TLift).")  # fmt: skip
@click.option("--rerank", is_flag=True,
              help="Also rank after k-reciprocal re-ranking, of all queries at once.")  # fmt: skip
@click.option("--both-directions", is_flag=True,
              help="Of sets with splits, also rank with the two cameras changed over.")  # fmt: skip
@click.option("--average-precision", type=click.Choice(["step", "trapezoid"]), default="step",
              show_default=True, help="trapezoid: by Market-1501's MATLAB rule.")  # fmt: skip
@click.option("--single-gallery-shot", is_flag=True,
              help="R1 by CUHK03's classic protocol, in ten drawn galleries.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "half"]), default="fp32",
              show_default=True, help="half: faster, where maps or M-Nets match.")  # fmt: skip
@click.option("--shortlist", type=click.IntRange(min=0), default=0, metavar="CROPS",
              help="Score so many a query in full, by a cheap score; 0: all.")  # fmt: skip
def evaluate(run: str, targets: tuple[str, ...], protocol: str | None, places: tuple[str, ...],
             temporal_lift: bool, rerank: bool, both_directions: bool, average_precision: str,
             single_gallery_shot: bool, precision: str, shortlist: int) -> None:  # fmt: skip
    """Rank unseen domains with a trained RUN, beside the colour-histogram reference.

    A set with published splits is ranked on each: mean +- standard deviation over them.
    """
    from rayreid.checkpoint import load_trained
    from rayreid.evaluate import evaluate as rank_target
    from rayreid.protocols import splits_of
    from rayreid.ranking.metrics import RankingSettings
    from rayreid.ranking.rerank import RerankSettings
    from rayreid.ranking.summary import RATES, summary
    from rayreid.ranking.temporal_lift import LiftSettings
    from rayreid.report import table
    from rayreid.results import fetched, returned
    from rayreid.run import keep_evaluation
    from rayreid.settings import checked
    from rayreid.study_report.record import looked_at

    settings = checked(RankingSettings, {"average_precision": average_precision,
                                         "single_gallery_shot": single_gallery_shot})  # fmt: skip
    ranked = chosen_round(protocol, places, "targets")
    targets += ranked.targets if ranked else ()
    if not targets:
        raise ValueError("no domain to rank; add --target LAYOUT=LOCATION, or --protocol")
    folder = fetched(run)
    trained = load_trained(folder)
    method, lift = trained.experiment.method, LiftSettings() if temporal_lift else None
    reranking = RerankSettings() if rerank else None
    rows: list[tuple[object, ...]] = []
    notes = []
    kept = []
    for target in targets:
        parts = splits_of(target, both_directions=both_directions)
        results = [
            rank_target(
                trained,
                part,
                counter(f"ranking {part}, crops"),
                lift,
                reranking,
                settings,
                half=precision == "half",
                shortlist=shortlist,
                scoring=counter(f"scoring {part}, pairs"),
            )
            for part in parts
        ]
        first = results[0]
        own = f"{method} (adapted)" if first.adapted else method
        own += f", {shortlist} shortlisted" if shortlist else ""
        for name, rankings in (
            (own, [r.ranking for r in results]),
            (f"{own} + temporal lift", [r.lifted for r in results if r.lifted]),
            (f"{own} + re-ranking", [r.reranked for r in results if r.reranked]),
            ("colour histogram", [r.reference for r in results]),
        ):
            if rankings:
                figures = summary(rankings)
                cells = (figures.shown(key) for key in ("rank1", "mAP", "mINP"))
                rows.append((target, name, *cells, rankings[0].queries))
        if len(parts) > 1:
            notes.append(f"{target}: mean +- standard deviation over {len(parts)} splits")
        if unmatched := sum(r.ranking.unmatched for r in results):
            notes.append(f"{target}: {unmatched} queries have no match; left out")
        if found := first.shortlisted:
            notes.append(
                f"{target}: {found.length} crops a query scored in full; of {found.queries} "
                f"queries that were scored in full against all, {found.first:.3f} have their first "
                f"crop and {found.recall:.3f} of their first {found.length} on the list, "
                f"{found.faster:.1f} times as fast"
            )
        if first.adapted:
            notes.append(
                f"{method} has learnt from unlabelled crops of {target}: to be compared with what "
                "adapts, not with what generalises"
            )
        if first.seen:
            notes.append(f"{target} is a source of this run: not an unseen domain")
        # A run of a study's end is in STUDY/final/.
        if said := looked_at(folder.absolute().parent.parent, target):
            notes.append(f"{said}: this is a further look, and nothing may be chosen by it")
        kept.append((first.target if len(parts) == 1 else target,
                     summary([r.ranking for r in results]),
                     summary([r.reference for r in results]),
                     [r.reranked for r in results if r.reranked],
                     first.shortlisted))  # fmt: skip
    if reranking:
        notes.append(
            f"re-ranking: k1 {reranking.neighbours}, k2 {reranking.expansion}, lambda "
            f"{reranking.original}; it looks at all queries together (transductive): to be "
            "compared with what does so as well"
        )
    click.echo(table(("target", "scores by", "R1", "mAP", "mINP", "queries"), rows))
    for target, of_method, *_ in kept:
        rates = ", ".join(f"{name} {of_method.mean[name]:.3f}" for name in RATES)
        click.echo(f"{target}, {method}: {rates}")
    for note in notes:
        click.echo(note)
    for target, of_method, of_reference, reranked, shortlisted in kept:
        also: dict[str, object] = {}
        if reranking:
            as_set = {"settings": reranking.model_dump()}
            also["re-ranking"] = summary(reranked).as_figures() | as_set
        if shortlisted:
            also["shortlist"] = asdict(shortlisted)
        unusual: dict[str, object] = settings.model_dump(exclude_defaults=True)
        if precision != "fp32":
            unusual["precision"] = precision
        if unusual:
            also["settings"] = unusual
        keep_evaluation(folder, target, of_method.as_figures(), of_reference.as_figures(), also)
    returned(run, folder)


@click.command()
def protocols() -> None:
    """List the published protocols: which sets each round learns from, and which it ranks."""
    from rayreid.protocols import PROTOCOLS
    from rayreid.report import table

    rows = [
        (f"{name}:{which}" if which else name, " ".join(one.sources), " ".join(one.targets))
        for name, rounds in PROTOCOLS.items()
        for which, one in rounds.items()
    ]
    click.echo(table(("round", "learns from", "ranks"), rows))
    click.echo("\nrayreid train METHOD --protocol ROUND --data LAYOUT=FOLDER ... learns a round;")
    click.echo("rayreid evaluate RUN --protocol ROUND --data LAYOUT=FOLDER ... ranks it.")
