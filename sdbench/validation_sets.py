"""Records against each other: duplicates, seeds, pairing, and a reference that they should agree with.

Trials are *compared* where all of their specs but method, parameters, threads, teacher and seed is the same, on the
same data and version of the protocol: those that a board may put in one table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from sdbench.cost.records import ProfileResult
from sdbench.leaderboard_variants import VariantKey, variant_key
from sdbench.spec import TrialResult, canonical
from sdbench.validation_files import Found
from sdbench.validation_records import Finding, error, warning

Read = tuple[Found, TrialResult]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

OWN = {"method", "params", "threads", "teacher", "seed"}
ALWAYS_EQUAL = 1.0
"""top-1 at which two seeds may well have all metrics in common."""


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in the order in which they come."""
    found: dict[K, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


def set_findings(trials: Sequence[Read], profiles: Sequence[tuple[Found, ProfileResult]]) -> Iterator[Finding]:
    """What only several records together can show."""
    yield from _duplicates([(found, record.trial_id) for found, record in trials], "trial")
    yield from _duplicates([(found, record.profile_id) for found, record in profiles], "profile")
    for group in grouped([read for read in trials if not read[1].spec.search], _comparable).values():
        by_variant = grouped(group, lambda read: variant_key(read[1]))
        for variant in by_variant.values():
            yield from _alike(variant)
        if group[0][1].spec.generation is None:
            yield from _unequal_seeds(by_variant)
        for same_seed in grouped(group, lambda read: read[1].spec.seed).values():
            yield from _unpaired(same_seed)


def _duplicates(ids: Sequence[tuple[Found, str]], what: str) -> Iterator[Finding]:
    for name, several in grouped(ids, lambda pair: pair[1]).items():
        for found, _ in several[1:]:
            problem = f"{what} {name[:60]!r} is also in {several[0][0].place}"
            yield error("duplicate", found.place, problem, "keep one of them; `sdbench merge` chooses by rule")


def _comparable(read: Read) -> str:
    spec, identity = read[1].spec, read[1].identity
    shared = spec.model_copy(update={"recipe": spec.common_recipe, "tuning": None})
    budget = spec.budget.model_dump(mode="json") if spec.budget else None
    own = shared.model_dump(mode="json", exclude=OWN)
    return canonical([own, budget, identity.data_fingerprint, identity.protocol_version])


def _alike(variant: Sequence[Read]) -> Iterator[Finding]:
    """Seeds that came twice, and different seeds whose metrics are the same to the last bit."""
    once = list({record.trial_id: (found, record) for found, record in reversed(variant)}.values())[::-1]
    for seed, several in grouped(once, lambda read: read[1].spec.seed).items():
        if len(several) > 1:
            problem = f"{several[0][1].spec.method} has {len(several)} trials of seed {seed}, which are no two seeds"
            remedy = "boards count the newest; they differ in threads or teacher"
            yield warning("seeds", several[1][0].place, problem, remedy)
    scored = [read for read in once if read[1].metrics and read[1].metrics.top1 < ALWAYS_EQUAL]
    for same in grouped(scored, lambda read: str(read[1].metrics)).values():
        seeds = sorted({record.spec.seed for _, record in same})
        if len(seeds) > 1:
            problem = f"seeds {', '.join(map(str, seeds))} of {same[0][1].spec.method} have all metrics in common"
            yield warning("suspicious", same[1][0].place, problem, "look whether one is a copy; run it again")


def _unequal_seeds(by_variant: Mapping[VariantKey, Sequence[Read]]) -> Iterator[Finding]:
    """Compared methods that do not rest on the same seeds."""
    seeds = {key: frozenset(record.spec.seed for _, record in reads) for key, reads in by_variant.items()}
    everything = frozenset().union(*seeds.values())
    for key, own in seeds.items():
        if own != everything:
            record = by_variant[key][0][1]
            lacking = ", ".join(map(str, sorted(everything - own)[:20]))
            where = f"{record.spec.dataset}/{record.spec.network}/{record.spec.method}"
            problem = f"lacks seeds that others it is compared with have: {lacking}"
            yield warning("seeds", where, problem, "run the seeds that are missing")


def _unpaired(same_seed: Sequence[Read]) -> Iterator[Finding]:
    """Trials of one seed that started from other weights or on another first batch."""
    known = [read for read in same_seed if read[1].pairing]
    for part, what in (("initial_weights", "initial weights"), ("first_batch", "first batch")):
        counted = [read for read in known if part == "initial_weights" or _usual_batch(read[1])]
        groups = sorted(grouped(counted, lambda read, part=part: getattr(read[1].pairing, part)).values(), key=len)  # type: ignore[misc]
        for odd in groups[:-1]:
            found, record = odd[0]
            other = groups[-1][0][1]
            seed, others = record.spec.seed, f"{record.spec.method} and {other.spec.method}"
            problem = f"seed {seed} of {others} did not have the same {what}"
            if _where(record) == _where(other):
                yield error("pairing", found.place, problem, "run both again with one version of sdbench")
            else:
                remedy = "they were made with other versions or devices; run both on one machine to pair them"
                yield warning("pairing", found.place, problem, remedy)


def _where(record: TrialResult) -> tuple[str, str, str]:
    made = record.provenance
    return made.versions.get("torch", ""), made.device, made.cpu


def _usual_batch(record: TrialResult) -> bool:
    """False for methods whose batch is made of fewer images and their partners, which is another one by design."""
    from sdbench import registry

    known = [registry.get(name) for name in record.spec.method.split("+") if name in registry.names()]
    return not any(cls.partners_in_batch for cls in known)


def reference_findings(trials: Sequence[Read], reference: Sequence[Read], *, whole: bool) -> Iterator[Finding]:
    """Trials against those of a reference: none removed, none worse, none with other results.

    whole: all that should be there was looked at, so that what lacks was removed.
    """
    mine = {record.trial_id: (found, record) for found, record in trials}
    for found, theirs in reference:
        if theirs.trial_id not in mine:
            if whole and theirs.status != "interrupted":
                told = f"{theirs.spec.method} seed {theirs.spec.seed}, trial {theirs.trial_id}, was removed"
                yield error("reference", found.place, told, "put it back, or say why it went")
            continue
        place, own = mine[theirs.trial_id][0].place, mine[theirs.trial_id][1]
        if theirs.status == "ok" and own.status != "ok":
            problem = f"{own.status}, where the reference has a finished trial"
            yield error("reference", place, problem, "put the finished record back")
        elif theirs.metrics != own.metrics and theirs.status == "ok":
            made = error if _where(own) == _where(theirs) else warning
            problem = f"other metrics than in the reference ({_changed(own, theirs)})"
            remedy = "the same trial gives the same bits on one kind of machine; find out what changed"
            yield made("reference", place, problem, remedy)
        elif own.checksums.get("trial.json") != theirs.checksums.get("trial.json"):
            yield warning("reference", place, "written anew, with the same metrics", "keep the reference's record")


def _changed(own: TrialResult, theirs: TrialResult) -> str:
    a, b = (record.metrics.model_dump() if record.metrics else {} for record in (own, theirs))
    return ", ".join(f"{name} {a[name]:g} for {b[name]:g}" for name in a if a[name] != b.get(name))
