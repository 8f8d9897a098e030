"""``python -m xray_batch`` is ``xray-batch``."""

from xray_batch.cli import main

if __name__ == "__main__":
    main()
