"""
One suite that every vendor must pass: the contract `OrderGateway`, through the public API, over real sockets.

A vendor joins by one file of its name in this folder with a `STAGE` (`stage.Stage`): how to play at its
sandbox. Every scenario then runs against it (`scenario.scenario`), and what the vendor recorded decides
whether an outcome was true (`judge.lie`). What a vendor cannot play it declares with a reason
(`Stage.lacks`), and `test_coverage.py` pins the list.
"""
