"""bark-serve on Ray Serve: deployments, HTTP and handles. Knows no tensor maths.

```
HTTP    http_app ─┐
                  ├─▶ service ─▶ pipeline.synthesis ─▶ remote ─▶ semantic, coarse, fine, codec
handle  ingress ──┘
```
"""
