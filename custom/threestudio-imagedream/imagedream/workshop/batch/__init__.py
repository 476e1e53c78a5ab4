"""A folder of pictures -> a mesh of each: workers that keep their model, a status file of each picture, pages at the end.

The folder of results holds

    index.html, contact_sheet.png   everything at a glance, written at the end
    KEY.glb                         the mesh of each picture
    KEY/                            its run, see `imagedream.workshop.launched_run`
"""
