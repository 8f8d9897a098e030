"""Measure a bundle on labelled films, and report it: a page for people, JSON and CSV for programs.

Four steps, each of which can be had alone::

    predictions     what the members say about each film, or why a film was not analysed
    measurement     figures with confidence intervals, from predictions and the bundle's locked thresholds
    figures         drawings of the figures
    report          the folder: report.html, report.json, predictions.csv, figures/*.png

Nothing is fitted here: temperature, thresholds and limits are those of the bundle.
"""
