"""Checkpoints whose matrices are stored in formats of their own: rules by a module's name, as quantisers write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vram_planner.architecture.precision import Except, Uniform
from vram_planner.errors import PrecisionError
from vram_planner.model_profiles.left_out import BEFORE, module_paths
from vram_planner.model_profiles.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vram_planner.architecture.model import Layer
    from vram_planner.architecture.storage import Plain, Storage
    from vram_planner.model_profiles.stored import Scheme

    Test = Callable[[str], bool]

_MOST_RULES: Final = 200_000
_MOST_WORK: Final = 4_000_000
_TABLES: Final = {
    "embed_tokens": ("model.embed_tokens", "model.language_model.embed_tokens", "embed_tokens"),
    "lm_head": ("lm_head", "language_model.lm_head"),
}


class Rule(NamedTuple):
    """Modules that `test` accepts (or one of that very name) are stored so; None: in 16 bits."""

    stored: Storage | None
    name: str = ""
    test: Test | None = None


def by_rules(
    inner: Uniform,
    rules: Iterable[Rule],
    layers: tuple[Layer, ...],
    *,
    tables: tuple[str, ...] = (),
) -> Uniform | Except:
    """
    `inner`, but for modules that a rule names: the first one that does so holds.

    `tables` are embedding and head where rules reach these ('embed_tokens', 'lm_head'). Exact names are looked up,
    so that long lists cost little; tests are tried in their order where no exact name came before them.
    Raises PrecisionError for lists beyond any use.
    """
    exact: dict[str, tuple[int, Storage | None]] = {}
    tests: list[tuple[int, Test, Storage | None]] = []
    for number, rule in enumerate(rules):
        if number >= _MOST_RULES:
            raise PrecisionError(
                f"more than {_MOST_RULES:,} rules for single modules", hint="shorten the quantization_config"
            )
        if rule.test is None:
            exact.setdefault(rule.name, (number, rule.stored))
        else:
            tests.append((number, rule.test, rule.stored))
    places = _places(layers, tables)
    if len(tests) * sum(len(names) for names in places.values()) > _MOST_WORK:
        raise PrecisionError(
            f"{len(tests):,} patterns for single modules", hint="write fewer patterns in quantization_config"
        )
    return _sorted_out(inner, {place: _first(names, exact, tests) for place, names in places.items()})


def _first(
    names: tuple[str, ...],
    exact: dict[str, tuple[int, Storage | None]],
    tests: list[tuple[int, Test, Storage | None]],
) -> tuple[int, Storage | None] | None:
    best = min((exact[name] for name in names if name in exact), key=lambda found: found[0], default=None)
    for number, test, stored in tests:
        if best is not None and number > best[0]:
            break
        if any(test(name) for name in names):
            return number, stored
    return best


def _sorted_out(
    inner: Uniform, found: dict[tuple[int | None, str], tuple[int, Storage | None] | None]
) -> Uniform | Except:
    left: set[tuple[int, str]] = set()
    mixed: dict[Storage, set[tuple[int | None, str]]] = {}
    for place, choice in found.items():
        if choice is None:
            continue
        layer, name = place
        if choice[1] is not None:
            mixed.setdefault(choice[1], set()).add(place)
        elif layer is not None:
            left.add((layer, name))
    if not left and not mixed:
        return inner
    return Except(
        inner=inner,
        in_layers=frozenset(left),
        mixed=tuple((stored, frozenset(places)) for stored, places in mixed.items()),
    )


def _places(
    layers: tuple[Layer, ...], tables: tuple[str, ...]
) -> dict[tuple[int | None, str], tuple[str, ...]]:
    """Each matrix with all the names that its module may have."""
    paths: dict[tuple[int | None, str], list[str]] = {}
    for index, layer in enumerate(layers):
        for name, path in module_paths(index, layer):
            endings = [path]
            if ".experts." in path:
                # Matrices of experts are called gate, up and down here; some checkpoints store them as one tensor.
                endings += [f"{path}_proj", path.partition(".experts.")[0] + ".experts"]
            paths.setdefault((index, name), []).extend(
                f"{before}{each}" for each in endings for before in BEFORE
            )
    found = {place: tuple(names) for place, names in paths.items()}
    return found | {(None, table): _TABLES[table] for table in tables}


def by_targets(
    base: Plain, schemes: tuple[tuple[Scheme, tuple[str, ...]], ...], layers: tuple[Layer, ...]
) -> Uniform | Except:
    """
    Compressed-tensors' groups: a name or `re:` pattern before a class of modules ('Linear'); the rest in `base`.

    Source: vLLM compressed_tensors/utils.py, find_matched_target.
    """
    rules: list[Rule] = []
    usual: Scheme | None = None
    for scheme, targets in schemes:
        for target in targets:
            if target.startswith("re:"):
                test = starts_with(target.removeprefix("re:"))
                rules.append(Rule(scheme.linear, test=test))
            elif "." in target or target == "lm_head":
                rules.append(Rule(scheme.linear, target))
            elif usual is None:
                usual = scheme
    rules.sort(key=lambda rule: rule.test is not None)
    title = usual.name if usual else min(scheme.name for scheme, _ in schemes)
    inner = same(title, base, usual.linear if usual else None)
    return by_rules(inner, rules, layers, tables=("lm_head",))


def starts_with(source: str) -> Test:
    """As `re.match`: GPTQModel's `dynamic`, compressed-tensors."""
    return pattern(source).starts


def covered_by(source: str) -> Test:
    """As `re.fullmatch`: torchao."""
    return pattern(source).covers


def found_in(source: str) -> Test:
    """As `re.search`: AutoRound."""
    return pattern(source).within


def like_file_names(source: str) -> Test:
    """As `fnmatch` with `*` and `?`: Quark."""
    return pattern("".join(_shell(char) for char in source)).covers


def _shell(char: str) -> str:
    return {"*": ".*", "?": "."}.get(char) or (char if char.isalnum() or char == "_" else f"\\{char}")


def same(name: str, base: Plain, stored: Storage | None) -> Uniform:
    """One format for matrices and experts; None: all in `base`."""
    return Uniform(name=name, base=base, linear=stored, expert=stored)
