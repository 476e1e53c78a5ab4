"""The web page: a picture is dropped, its views are picked, a model is made and taken home. Started by `imagedream app`."""
