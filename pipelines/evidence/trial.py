"""A claim from beginning to end: caches, search, trainings, measurements, verdicts, tables, page."""

from pathlib import Path

from pipelines.evidence import page, search, tables, work
from pipelines.evidence.arms import Arm
from pipelines.evidence.claims.claim import Claim, Judged, Tried
from pipelines.evidence.results import Results, gathered
from pipelines.evidence.setting import SEARCH_SEEDS, Setting
from schemas import charts
from schemas.screen import say


def try_claim(claim: Claim, out: Path, setting: Setting) -> str:
    """Try a claim, and put what came of it into `out`; the claim's part of the page."""
    say(f"{claim.name}: {claim.title} ({claim.paper})", bold=True)
    out.mkdir(parents=True, exist_ok=True)
    tables.make_run(out, setting)
    searched = _searched(claim, out, setting)
    arms = claim.arms(searched)
    variants = list(dict.fromkeys(arm.variant for arm in arms))
    seeds = setting.seed_numbers
    cache_jobs: list[work.Job] = [(out, seed, variants, setting) for seed in seeds]
    work.all_of("caches", work.make_cache, cache_jobs, out, setting.workers)
    results = _trained(arms, out, setting, claim.margins)
    many: dict[int, Path] = {}
    if claim.many_samples:
        jobs: list[work.Job] = [(out, seed, setting, claim.many_samples) for seed in seeds]
        many = dict(
            zip(
                seeds, work.all_of("samples", work.measure_reference, jobs, out, setting.workers), strict=True
            )
        )
    judged = claim.judge(Tried(results, searched, out, many))
    tables.write(out, claim.name, results, searched, judged.verdicts)
    return _written(claim, judged, out, _cost(results, searched, len(seeds)))


def _searched(claim: Claim, out: Path, setting: Setting) -> search.Search:
    """The search for the claim's methods, with the caches that it needs."""
    variants = list(dict.fromkeys(method.variant for method in claim.methods))
    jobs: list[work.Job] = [(out, seed, variants, setting) for seed in SEARCH_SEEDS]
    work.all_of("search caches", work.make_cache, jobs, out, setting.workers)
    return search.search(out, claim.methods, setting)


def _trained(arms: list[Arm], out: Path, setting: Setting, margins: bool) -> Results:
    """Every arm with every seed, and the reference."""
    alike = _alike(arms)
    keys = [(arm, seed) for seed in setting.seed_numbers for arm in dict.fromkeys(alike.values())]
    jobs: list[work.Job] = [(out, seed, arm, setting, margins) for arm, seed in keys]
    trained = work.all_of("trainings", work.train_and_measure, jobs, out, setting.workers)
    made = dict(zip(keys, trained, strict=True))
    jobs = [(out, seed, setting, setting.samples) for seed in setting.seed_numbers]
    references = work.all_of("reference", work.measure_reference, jobs, out, setting.workers)
    return gathered(
        {(arm, seed): made[alike[arm], seed] for seed in setting.seed_numbers for arm in arms},
        dict(zip(setting.seed_numbers, references, strict=True)),
        setting.test_problems,
    )


def _alike(arms: list[Arm]) -> dict[Arm, Arm]:
    """For each arm the first of those that are trained in the same way: they are trained once."""
    first: dict[tuple[str, tuple[str, ...]], Arm] = {}
    return {arm: first.setdefault((arm.variant, tuple(arm.settings())), arm) for arm in arms}


def _cost(results: Results, searched: search.Search, seeds: int) -> str:
    """What the claim took, in trainings and seconds of one core."""
    trainings = results.trainings.unique("folder")
    seconds = float(trainings["seconds"].sum()) + float(trainings["measure_seconds"].sum())
    return (
        f"{seeds} seeds; {len(trainings)} trainings, {seconds / 60:.0f} min of one core with what was "
        "measured; "
        f"the search for learning rate and β: {len(searched.table) * len(SEARCH_SEEDS)} trainings, "
        f"{float(searched.table['seconds'].sum()) / 60:.0f} min."
    )


def _written(claim: Claim, judged: Judged, out: Path, cost: str) -> str:
    """The pictures and the page of a claim, written; the page's text."""
    pictures: dict[str, str] = {}
    (out / page.PICTURES).mkdir(exist_ok=True)
    for name, chart in judged.charts.items():
        path = out / page.PICTURES / f"evidence_{name}.png"
        path.write_bytes(charts.png(chart))
        pictures[str(chart.get("title", claim.title))] = f"{page.PICTURES}/{path.name}"
    text = page.section(claim, judged, pictures, cost)
    page.put(out, claim.name, text)
    return text
