"""One HTML page and its figures, from records alone.

``rows``, ``series``, ``profile``, ``heatmap``, ``costs``, ``beside`` and ``provenance`` turn records into small
dataclasses; ``figures`` draws them, ``svg`` fits them into the page, ``parts`` says what stands in each section,
``page`` puts all together.
"""
