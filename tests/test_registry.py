"""Names, plug-ins, entry points and hyper-parameters: what is accepted, and what is said where it is not."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sdbench import Batch, Choice, LogUniform, Method, Mixed, Output, Terms, Uniform, get, names, register, registry
from sdbench.errors import UserError
from sdbench.method import Combination


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    registry.load_builtin()
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(registry, "_ORIGIN", dict(registry._ORIGIN))


class Plain(Method):
    """Does what a method must and no more."""

    def criterion(self, output: Output, batch: Batch, progress: Any) -> Terms:
        return {"sum": output.logits.sum()}


class Valued(Plain):
    """One hyper-parameter of each kind."""

    space = {"weight": LogUniform(0.1, 10.0), "power": Uniform(0, 2), "depth": Choice(1, 2, 4)}
    recommended = {"cifar100": {"weight": 2.0, "power": 1}}

    def __init__(
        self,
        *,
        weight: float = 0.5,
        power: float = 1.5,
        depth: int = 1,
        normalize: bool = True,
        spread: Literal["all", "others"] = "all",
        note: str = "",
    ) -> None:
        super().__init__()
        self.values = (weight, power, depth, normalize, spread, note)


class Mixer(Method):
    """Mixes nothing, by a factor."""

    def __init__(self, *, alpha: float = 1.0, weight: float = 3.0) -> None:
        super().__init__()
        self.values = (alpha, weight)

    def mix(self, batch: Batch, generator: Any) -> Mixed:
        return Mixed(batch.images, batch.labels, 1.0)


# Names -------------------------------------------------------------------------------------------------------


def test_the_fixed_names_are_there() -> None:
    assert {"ce", "ls", "cskd", "byot", "pskd", "zipf"} <= set(names())
    assert names() == sorted(names())
    assert registry.baseline_name() == "ce"
    assert registry.core_names()[0] == "ce"
    assert {"ls", "cskd", "byot", "pskd", "zipf"} == set(registry.core_names()[1:])


def test_an_unknown_name_lists_near_matches() -> None:
    with pytest.raises(
        UserError, match=r"unknown method 'zpf'; did you mean 'zipf'\?.*Known: .*ce.*sdbench list methods"
    ):
        get("zpf")


def test_a_registered_class_knows_its_name_and_sources() -> None:
    cls = register("toy_plain", paper="https://example.org/p", official="a/b@c")(Plain)
    assert get("toy_plain") is cls is Plain
    assert (cls.name, cls.paper, cls.official) == ("toy_plain", "https://example.org/p", "a/b@c")


def test_a_taken_name_is_refused_and_the_first_stays() -> None:
    first = get("ce")
    with pytest.raises(UserError, match=r"'ce' is taken by .*choose another name"):
        register("ce")(Plain)
    assert get("ce") is first


@pytest.mark.parametrize("name", ["", "Zipf", "2x", "a-b", "a+b", "a b", "ä", "a" * 65, "a/b", "_a", "zipf\n"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="use lower-case letters, digits and underscores"):
        register(name)(Plain)


def test_only_methods_can_be_registered() -> None:
    with pytest.raises(UserError, match=r"derive .* from sdbench\.Method"):
        register("toy_object")(object)  # type: ignore[type-var]


def test_a_method_must_do_something() -> None:
    class Idle(Method):
        pass

    with pytest.raises(UserError, match="override criterion"):
        register("toy_idle")(Idle)
    assert "toy_idle" not in names()


def test_there_is_one_baseline_and_it_is_not_inherited() -> None:
    class SecondBaseline(Plain):
        baseline = True

    with pytest.raises(UserError, match="'ce' is the baseline"):
        register("toy_baseline")(SecondBaseline)

    class Heir(get("ce")):  # type: ignore[misc]
        pass

    register("a_toy_heir")(Heir)
    assert registry.baseline_name() == "ce"
    assert "a_toy_heir" not in registry.core_names()


def test_every_mistake_in_a_signature_is_named_at_once() -> None:
    class Wrong(Plain):
        space = {"missing": Uniform(0, 1)}

        def __init__(self, positional: float = 1.0, *, bare: float, untyped=1, listed: list[int] = [], **rest: float):  # noqa: B006
            super().__init__()

    with pytest.raises(UserError) as error:
        register("toy_wrong")(Wrong)
    text = "\n".join(error.value.problems)
    for word in ("'positional' must be keyword-only", "'bare' must be", "annotate 'untyped'", "annotate 'listed'"):
        assert word in text
    assert "'rest' must be" in text
    assert "'missing' is in space, recommended or neutral but not in __init__" in text


# Hyper-parameters --------------------------------------------------------------------------------------------


def test_hyper_parameters_are_read_off_the_signature() -> None:
    known = registry.parameters(Valued)
    assert list(known) == ["weight", "power", "depth", "normalize", "spread", "note"]
    assert [p.type for p in known.values()] == [float, float, int, bool, str, str]
    assert [p.default for p in known.values()] == [0.5, 1.5, 1, True, "all", ""]
    assert known["weight"].range == LogUniform(0.1, 10.0)
    assert known["spread"].range == Choice("all", "others")
    assert known["normalize"].range is None
    assert registry.parameters(Plain) == {}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("weight", "2", 2.0),
        ("weight", "1e-1", 0.1),
        ("depth", "4", 4),
        ("normalize", "False", False),
        ("normalize", "yes", True),
        ("normalize", "0", False),
        ("spread", "others", "others"),
        ("note", "1", "1"),
    ],
)
def test_texts_become_values_of_the_right_type(key: str, text: str, value: object) -> None:
    parsed = registry.parameters(Valued)[key].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert registry.parameters(Valued)[key].problem(parsed) == ""


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [("weight", "much", "a number"), ("depth", "1.5", "an integer"), ("normalize", "maybe", "true or false")],
)
def test_texts_that_are_no_value_say_what_was_expected(key: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry.parameters(Valued)[key].parse(text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weight", 11.0, "11.0 is outside"),
        ("weight", 0.05, "0.05 is outside"),
        ("weight", -1.0, "outside"),
        ("weight", float("nan"), "finite"),
        ("weight", float("inf"), "finite"),
        ("weight", True, "expected float"),
        ("weight", "1", "expected float"),
        ("power", 2.0001, "outside"),
        ("depth", 3, "one of 1, 2, 4"),
        ("depth", True, "expected int"),
        ("depth", 2.0, "expected int"),
        ("normalize", 1, "expected bool"),
        ("spread", "some", "one of all, others"),
    ],
)
def test_values_outside_type_or_range_are_refused(key: str, value: object, words: str) -> None:
    assert words in registry.parameters(Valued)[key].problem(value)


@pytest.mark.parametrize(
    ("key", "value"), [("weight", 0.1), ("weight", 10), ("weight", 0), ("power", 0), ("power", 2), ("depth", 4)]
)
def test_end_points_and_zero_are_allowed(key: str, value: object) -> None:
    assert registry.parameters(Valued)[key].problem(value) == ""


def test_default_gives_way_to_recommended_and_that_to_given() -> None:
    register("toy_valued")(Valued)
    plain = {"weight": 0.5, "power": 1.5, "depth": 1, "normalize": True, "spread": "all", "note": ""}
    assert registry.resolve("toy_valued", "cifar10", {}) == plain
    assert registry.resolve("toy_valued", "cifar100", {}) == plain | {"weight": 2.0, "power": 1.0}
    assert registry.resolve("toy_valued", "cifar100", {"weight": 3.0}) == plain | {"weight": 3.0, "power": 1.0}


def test_an_integer_given_for_a_float_is_the_same_identity() -> None:
    register("toy_valued")(Valued)
    resolved = registry.resolve("toy_valued", "cifar10", {"power": 1, "depth": 2})
    assert type(resolved["power"]) is float
    assert type(resolved["depth"]) is int


# Building ----------------------------------------------------------------------------------------------------


def test_building_hands_over_every_value() -> None:
    register("toy_valued")(Valued)
    built = registry.build("toy_valued", {"weight": 1.0, "power": 0.0, "depth": 2, "normalize": False, "note": "n"})
    assert built.values == (1.0, 0.0, 2, False, "all", "n")


def test_a_combination_splits_the_values_by_prefix() -> None:
    register("toy_valued")(Valued)
    register("toy_mixer")(Mixer)
    built = registry.build("toy_valued+toy_mixer", {"weight": 1.0, "toy_mixer.weight": 9.0, "toy_mixer.alpha": 0.2})
    assert isinstance(built, Combination)
    assert built.base.values[0] == 1.0
    assert built.mixer.values == (0.2, 9.0)


def test_a_mixing_method_alone_is_blended_with_itself() -> None:
    register("toy_mixer")(Mixer)
    built = registry.build("toy_mixer", {"alpha": 0.3})
    assert isinstance(built, Combination)
    assert built.base is built.mixer
    assert built.base.values == (0.3, 3.0)


def test_combinations_that_cannot_be_are_refused_with_the_reason() -> None:
    class Remembers(Plain):
        refuses_mixing = "it keeps a row for each image"

    class Paired(Plain):
        partners = 1

    for name, cls in [("toy_mixer", Mixer), ("toy_plain", Plain), ("toy_remembers", Remembers), ("toy_paired", Paired)]:
        register(name)(cls)
    with pytest.raises(UserError, match="toy_plain does not hand mixed images to another"):
        registry.build("ce+toy_plain", {})
    with pytest.raises(UserError, match="toy_remembers cannot be trained on mixed images: it keeps a row for each"):
        registry.build("toy_remembers+toy_mixer", {})
    with pytest.raises(UserError, match="toy_paired cannot be trained on mixed images: it needs partners"):
        registry.build("toy_paired+toy_mixer", {})
    with pytest.raises(UserError, match="toy_mixer cannot be trained on mixed images: it mixes images itself"):
        registry.build("toy_mixer+toy_mixer", {})
