#!/usr/bin/env python3
"""From samples to medians, ratios, a table for people and an object for machines."""

from statistics import median


def summarize(work, samples, subject, peers):
    """`samples` is {proxy: [figures of each round]}; one summary per figure of `work`."""
    summaries = []
    for figure, (what, unit, bar, less) in work.figures.items():
        values = {name: [one[figure] for one in rounds] for name, rounds in samples.items()}
        ratio = paired_ratio(values, subject, peers, less)
        summary = {
            "id": work.id,
            "work": work.title,
            "figure": what,
            "unit": unit,
            "less_is_better": less,
            "samples": values,
            "medians": {name: median(all_rounds) for name, all_rounds in values.items()},
            "ratio_to_best": ratio,
            "bar": bar,
            "met": None,
        }
        if ratio is not None and bar is not None:
            met = ratio <= bar if less else ratio >= bar
            limit = getattr(work, f"{figure}_max", None)
            if limit is not None:
                summary["max"] = limit
                met = met and summary["medians"][subject] <= limit
            summary["met"] = met
        summaries.append(summary)
    return summaries


def paired_ratio(values, subject, peers, less):
    """The median over rounds of the subject against the best peer of the same round."""
    peers = [peer for peer in peers if peer in values and peer != subject]
    if subject not in values or not peers:
        return None
    best = min if less else max
    ratios = [
        mine / best(values[peer][i] for peer in peers) for i, mine in enumerate(values[subject])
    ]
    return median(ratios)


def shown(value, unit):
    digits = 0 if abs(value) >= 100 else 1
    return f"{value:,.{digits}f} {unit}" if unit != "/s" else f"{value:,.0f}/s"


def bar_text(summary):
    if summary["bar"] is None:
        return ""
    sign = "≤" if summary["less_is_better"] else "≥"
    text = f"{sign} {summary['bar']:.2f}×"
    return f"{text}, ≤ {summary['max']} {summary['unit']}" if "max" in summary else text


def table(summaries, names):
    """Markdown. `names` are the columns, in order."""
    head = ["work", "figure", *names, "to the best", "bar", ""]
    rows = [head, ["---"] * len(head)]
    for summary in summaries:
        cells = [f"{summary['id']} {summary['work']}", summary["figure"]]
        for name in names:
            value = summary["medians"].get(name)
            cells.append("" if value is None else shown(value, summary["unit"]))
        ratio = summary["ratio_to_best"]
        cells.append("" if ratio is None else f"{ratio:.2f}×")
        cells.append(bar_text(summary))
        cells.append({True: "met", False: "missed", None: ""}[summary["met"]])
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
