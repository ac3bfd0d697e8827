"""Strategies of one's own: what loads, and everything that is refused."""

import gc
import re
from textwrap import dedent

import numpy as np
import pytest
from builders import ROOT, write_case

from uss_bench import config
from uss_bench.data.volumes import load_volume
from uss_bench.runtime.errors import InputError
from uss_bench.study import own
from uss_bench.study.annotation import Annotations
from uss_bench.study.keys import ModelKey
from uss_bench.study.pool import SCORES, Pool, PoolCase, Query
from uss_bench.study.querying import Querying
from uss_bench.study.records import TrainingSet
from uss_bench.study.strategies import Strategy

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(PER_AREA,) = [block for block in BLOCKS if "PerArea = " in block]


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Callable that writes a file and loads a strategy from it."""
    monkeypatch.chdir(tmp_path)

    def loaded(text, name="Mine"):
        (tmp_path / "mine.py").write_text(dedent(text), encoding="utf-8")
        return own.load(f"mine.py:{name}")

    return loaded


def choosing(body, asks_for="slices", needs=()):
    """A file whose strategy `Mine` has this body."""
    lines = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    return (
        "import random, time\nimport numpy as np\nfrom uss_bench import Query, Strategy\n"
        f"def choose(pool, count, generator):\n{lines}\n"
        f"Mine = Strategy('Mine', '{asks_for}', choose, {needs!r})\n"
    )


def test_the_one_of_the_readme(load, tmp_path):
    strategy = load(PER_AREA, "PerArea")
    assert (strategy.name, strategy.asks_for, strategy.needs) == ("PerArea", "slices", ("profile", "liver"))
    assert strategy.origin.file == "mine.py"
    assert strategy.origin.text == (tmp_path / "mine.py").read_text(encoding="utf-8")
    scores = {"profile": np.array([0.2, 0.6, 0.4]), "liver": np.array([0, 5, 1])}
    pool = Pool([PoolCase("a", 3, frozenset([1]), scores)])
    assert strategy.choose(pool, 9, np.random.default_rng(0)) == [("a", 0, 0.2), ("a", 2, 0.2)]


def test_a_byte_order_mark_does_no_harm(load):
    assert load(f"\ufeff{PER_AREA}", "PerArea").origin.text == PER_AREA


def test_the_name_in_the_report_is_the_one_that_was_asked_for(load):
    assert (
        load("from uss_bench import Strategy\nA = B = Strategy('x', 'volumes', lambda *_: [])", "B").name
        == "B"
    )


def test_queries_may_be_numpy_numbers_and_come_from_a_generator(load):
    strategy = load(choosing("""
        for case in pool.cases[1:]:
            yield case.case_id, np.int64(case.open_slices[0]), np.float32(0.5)
            return
    """))  # fmt: skip
    (query,) = strategy.choose(Pool([PoolCase("a", 3), PoolCase("b", 4)]), 1, None)
    assert query == Query("b", 0, 0.5) and type(query.z) is int and type(query.score) is float


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py", "name a strategy in a file, as my_strategy.py:NAME"),
        ("mine.py:", "name a strategy in a file"),
        ("mine.txt:Mine", "name a strategy in a file"),
        ("mine.py:not a name", "name a strategy in a file"),
        ("absent.py:Mine", "absent.py cannot be read (No such file or directory)"),
        ("mine.py:uss", "the name uss is taken"),
        ("mine.py:initial", "the name initial is taken"),
        ("mine.py:Extended", "the name Extended is taken"),
        ("binary.py:Mine", "binary.py cannot be read ('utf-8' codec"),
    ],
)
def test_what_names_no_strategy_is_refused(tmp_path, monkeypatch, reference, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        own.load(reference)
    assert str(refused.value).startswith(f"--strategy {reference}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x / 0\n", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("x = (\n", "mine.py, line 1: SyntaxError: '(' was never closed"),
        (
            "\nimport no_such_package\n",
            "mine.py, line 2: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("def f():\n    raise SystemExit(3)\nf()\n", "mine.py, line 2: SystemExit: 3"),
        ("x = 1\n", "mine.py: has no Mine; define Mine = "),
        ("def Mine(*_): pass\n", "mine.py: Mine is a function; make it Mine = "),
    ],
)
def test_a_file_that_does_not_give_a_strategy_is_refused_with_its_line(load, text, message):
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        load(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'pixels', print", "asks_for is 'pixels'; it must be 'volumes' or 'slices'"),
        ("'slices', 3", "choose is 3; it must be a function of pool, count, generator"),
        ("'slices', print, 'profile'", "needs is 'profile'; it must be a tuple"),
        ("'slices', print, ('entropy',)", "needs is ('entropy',); it must be a tuple of any of volume, "),
        ("'slices', print, None", "needs is None; it must be a tuple"),
        ("'slices', print, ([],)", "needs is ([],); it must be a tuple"),
        ("'slices', print, until_liver=True", "until_liver counts by labels"),
        ("'slices', print, replays='UVS'", "replays is for lists of queries; leave it out"),
        ("'slices', print, ('profile', 'errors')", "(errors are read from labels)"),
    ],
)
def test_a_strategy_of_wrong_parts_is_refused(load, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load(f"from uss_bench import Strategy\nMine = Strategy('Mine', {arguments})")


ALL = "[Query(case.case_id, z) for case in pool.cases for z in case.open_slices]"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "TypeError: 'NoneType' object is not iterable"),
        ("return [3]", "TypeError: 3 is not a Query(case_id, z, score)"),
        ("return [(1, 2)]", "TypeError: (1, 2) is not a Query"),
        ("return [Query(pool.cases[1].case_id, 0.5)]", "the slice is not a whole number"),
        ("return [Query(pool.cases[1].case_id, True)]", "the slice is not a whole number"),
        ("return [Query(pool.cases[1].case_id, 0, float('nan'))]", "the score is not a finite number"),
        ("return [Query(pool.cases[1].case_id, 0, 'high')]", "the score is not a finite number"),
        (f"return {ALL}", "queries, more than the budget"),
        (f"return 2 * {ALL}[:count // 2] if count > 1 else []", "slice 0 of tiny-1 twice"),
        ("return [Query('else', 0)]", "else is not in the pool"),
        ("return [Query('tiny-0', 5)]", "slice 5 of tiny-0 is annotated already"),
        ("return [Query('tiny-2', 9)]", "slice 9 of tiny-2 does not exist; there are 9, counted from 0"),
        ("return [Query('tiny-2', -1)]", "slice -1 of tiny-2 does not exist"),
        ("return [Query('tiny-2')]", "a query for a volume among slices"),
    ],
)
def test_answers_that_no_strategy_may_give_are_refused(load, body, message):
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        load(choosing(body))
    assert re.match(r"mine\.py.*Mine, asked for \d+ slices on a tiny pool", str(refused.value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [Query('tiny-1')]", "volume tiny-1 is annotated already"),
        ("return [Query('tiny-2', 3)]", "a query for a slice among volumes"),
    ],
)
def test_volumes_are_asked_for_whole_and_untouched(load, body, message):
    with pytest.raises(InputError, match=message):
        load(choosing(body, "volumes"))
    load(choosing("return [Query(case.case_id) for case in pool.untouched][:count]", "volumes"))


@pytest.mark.parametrize(
    "draw",
    [
        "random.sample({}, count)",
        "np.random.permutation({}).tolist()[:count]",
        "sorted({}, key=lambda _: time.perf_counter_ns() % 7)[:count]",
    ],
)
def test_randomness_that_is_not_the_generators_is_refused(load, draw):
    drawn = draw.format(ALL)
    body = f"some = {drawn} if count == 4 else []\nreturn [Query(case_id, int(z)) for case_id, z, _ in some]"
    with pytest.raises(
        InputError, match="another answer to the same question; let nothing but the given gene"
    ):
        load(choosing(body))


def test_randomness_of_the_generator_is_welcome(load):
    drawn = f"some = {ALL}\nreturn [some[place] for place in generator.permutation(len(some))[:count]]"
    strategy = load(choosing(drawn))
    pool = Pool([PoolCase("a", 20)])
    first, again, other = (strategy.choose(pool, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_what_a_strategy_does_to_its_pool_stays_there(load):
    """Scaled in place and sorted: the next to be asked sees what was there."""
    strategy = load(choosing("""
        for case in pool.cases:
            if case.scores:
                case.scores["profile"] /= 2
        pool.cases.sort(key=lambda case: case.slices)
        case = pool.cases[-1]
        return [Query(case.case_id, case.open_slices[0], case.scores["profile"][0])]
    """, needs=("profile",)))  # fmt: skip
    cases = [PoolCase(name, n, scores={"profile": np.full(n, 0.5)}) for name, n in (("a", 3), ("b", 4))]
    pool = Pool(cases[::-1])
    assert [strategy.choose(pool, 1, None) for _ in range(2)] == 2 * [[("b", 0, 0.25)]]
    assert [case.case_id for case in pool.cases] == ["b", "a"]
    assert pool.cases[1].scores["profile"].tolist() == [0.5, 0.5, 0.5]


def test_annotations_of_a_file_are_evaluated_as_python_does(load):
    """The futures of the program are not those of the file."""
    text = "from uss_bench import Strategy\ndef f(x: int): pass\nassert f.__annotations__ == {'x': int}\n"
    load(f"{text}Mine = Strategy('Mine', 'slices', lambda *_: [])")


def test_an_error_in_the_middle_of_a_run_names_file_line_and_iteration(load):
    strategy = load(choosing("""
        if pool.iteration == 3:
            return [Query(pool.cases[0].case_id, {}["z"])]
        return []
    """))  # fmt: skip
    pool = Pool([PoolCase("a", 3)], iteration=3)
    expected = (
        "mine.py, line 6: KeyError: 'z' (Mine, asked for 2 slices in iteration 3); nothing that was finished "
        "is lost: correct the file, and the same command continues"
    )
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        strategy.choose(pool, 2, np.random.default_rng(0))
    assert strategy.choose(Pool([PoolCase("a", 3)], iteration=2), 2, np.random.default_rng(0)) == []


# --- labels ---


@pytest.mark.parametrize(
    ("peek", "message"),
    [
        ("pool.cases[1].label", "AttributeError: 'PoolCase' object has no attribute 'label'"),
        ("pool.volumes", "AttributeError: 'Pool' object has no attribute 'volumes'"),
        ("pool.cases[1].scores['errors']", "KeyError: 'errors'"),
        ("pool.cases[1].scores['mask']", "KeyError: 'mask'"),  # nor what it does not need
    ],
)
def test_a_strategy_that_looks_for_labels_finds_none_and_is_refused(load, peek, message):
    with pytest.raises(InputError, match=re.escape(f"mine.py, line 5: {message}")):
        load(choosing(f"seen = {peek}\nreturn []", needs=("profile",)))


def reachable(*objects):
    """Whatever hangs on objects, as the garbage collector finds it."""
    found, new = {}, list(objects)
    while new:
        found.update({id(item): item for item in new})
        new = [
            item
            for item in gc.get_referents(*new)
            if id(item) not in found and not isinstance(item, (type, str, int, float))
        ]
    return list(found.values())


def test_nothing_that_a_run_hands_to_a_strategy_leads_to_a_label(tmp_path):
    """The pool that a run shows holds harmless kinds; neither it nor the generator leads to a volume."""
    settings, handed = config.resolve("smoke", ["data.spacing=4,4,4", "query.min_distance_mm=15"]), []
    volume = load_volume(write_case(tmp_path, 0, "pool"), settings.data.spacing, tmp_path / "cache")
    needs = tuple(name for name in SCORES if name != "errors")
    strategy = Strategy("Mine", "slices", lambda *arguments: handed.extend(arguments) or [], needs)
    (shown,) = own.tiny_pool(Strategy("Mine", "slices", print, needs)).cases[1:2]
    scores = {"case_id": "case-0", "empty": False, **shown.scores}
    querying = Querying(settings, {"case-0": volume}, 0)
    querying.query(strategy, TrainingSet(ModelKey.of_iteration("Mine", 3), Annotations()), 1, [scores])
    pool, _, generator = handed
    assert (pool.min_distance, pool.spacing, pool.iteration) == (4, (4.0, 4.0, 4.0), 4)
    assert pool.cases[0].scores.keys() == set(needs)
    for objects, found in (((querying,), True), ((pool, generator), False)):
        assert any(item is volume for item in reachable(*objects)) is found
    kinds = {type(item).__name__ for item in reachable(pool)}
    assert kinds <= {"Pool", "PoolCase", "dict", "list", "tuple", "frozenset", "ndarray", "mappingproxy"}
