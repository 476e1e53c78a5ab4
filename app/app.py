"""The page as a hosted Space, which looks for this file: set the secret IMAGEDREAM_APP_PASSWORD there."""

from imagedream.cli import main

raise SystemExit(main(["app", "--address", "0.0.0.0"]))
