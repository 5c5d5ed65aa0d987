"""The HTML views: one well-formed page each, without outside parts."""

from html.parser import HTMLParser

from hypothesis import given, settings

from tests.config_components import FeedForward, Layer, MoE, trainer_config
from tests.config_strategies import trainers
from trellax.config import diff, diff_html, replace_config, to_html

_VOID = {"meta", "input", "br"}


class _Page(HTMLParser):
    """Checks nesting and collects the rows."""

    def __init__(self, text):
        super().__init__()
        self.open, self.paths, self.links, self.classes = [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in _VOID:
            self.open.append(tag)
        self.links += [v for k, v in attrs.items() if k in ("src", "href")]
        if "data-path" in attrs:
            self.paths.append(attrs["data-path"])
            self.classes[attrs["data-path"]] = (attrs.get("class") or "").split()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_has_each_place_once_and_needs_nothing_from_outside():
    page = _Page(to_html(trainer_config(), title="tiny"))
    assert len(page.paths) == len(set(page.paths))
    assert "model.layers[1].norm.eps" in page.paths
    assert page.links == []


def test_a_page_tells_defaults_from_what_was_changed():
    classes = _Page(to_html(trainer_config())).classes
    assert "changed" in classes["model.dim"]
    assert "default" in classes["max_steps"]


def test_text_of_users_is_escaped():
    text = to_html(trainer_config().set(name="</script><b>"), title="<i>")
    assert "<b>" not in text
    assert "<i>" not in text


def test_two_trees_stand_side_by_side_with_marks():
    a = trainer_config()
    b = a.clone(max_steps=3)
    replace_config(b, "model.layers[0].feed_forward", MoE.default_config())
    b.model.layers.append(Layer.default_config())
    text = diff_html(a, b, names=("dense", "sparse"))
    page = _Page(text)
    differing = {path for path, classes in page.classes.items() if "differs" in classes}
    assert {c.path for c in diff(a, b)} <= differing
    assert "model.layers[1].feed_forward" not in differing
    assert "dense" in text
    assert "sparse" in text
    assert f">{FeedForward.__name__}<" in text


@settings(max_examples=25)
@given(trainers(), trainers())
def test_pages_of_any_trees_are_well_formed(a, b):
    _Page(to_html(a))
    page = _Page(diff_html(a, b))
    assert bool(diff(a, b)) == any("differs" in classes for classes in page.classes.values())
