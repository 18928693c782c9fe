"""At once."""

import matmul_pair


def prepare(flags):
    return matmul_pair.prepare(0, flags)


def main(argv=None):
    run = prepare(argv or [])
    run.step()
    print(f"{run.metrics()['calls']:.0f} calls")
    return 0
