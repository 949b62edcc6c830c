"""A chart on paper has no marks that only a mouse makes visible, and it is otherwise the chart of the page."""

from palinode.report import charts

X, Y = charts.Axis("step", "step"), charts.Axis("value", "nats")


def test_points_that_wait_for_the_mouse_are_left_out_with_their_parameter():
    chart = charts.learning_curves(X, Y, {"ltr": "#000000"}, {"ltr": [1, 0]})
    drawn = charts.on_paper(chart)
    assert [layer["name"] for layer in chart["layer"]] == ["seeds", "means", "points"]
    assert drawn["layer"] == chart["layer"][:2]
    assert [param["name"] for param in chart["params"]] == ["picked", "nearest"]
    assert [param["name"] for param in drawn["params"]] == ["picked"]


def test_points_that_are_always_visible_stay():
    """On an axis of whole numbers the points are faint; in a chart of final scores they are the content."""
    faint = charts.lines(charts.Axis("blocks", "blocks"), Y, {"ltr": "#000000"}, "arm")
    final = charts.final_scores(Y, {"ltr": "#000000"})
    assert [charts.on_paper(chart) for chart in (faint, final)] == [faint, final]
