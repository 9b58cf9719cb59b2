"""``plm`` in several processes: ``composer -n 2 -m plm_composer.cli embed ...``."""

from plm_composer.cli import main

if __name__ == "__main__":
    main()
