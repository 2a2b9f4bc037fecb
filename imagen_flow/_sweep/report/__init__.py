"""Show the items of a sweep: a page to explore them in a browser, and a contact sheet.

Both are made from ``index.jsonl`` and the files that it names. `rows` reads the index, `pictures`
finds and decodes its pictures, `labels` says what differs between items, `page` and `sheet` draw,
and `folder` writes the results. The index and the pictures are not trusted.
"""
