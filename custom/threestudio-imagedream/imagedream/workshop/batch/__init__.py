"""A folder of pictures -> a mesh of each: workers that keep their model, a status file of each picture, pages at the end.

The library starts `launch.py` here as a shell would, by its path (`imagedream.workshop.batch.launching`), only in a process that
lives on: it imports neither threestudio nor the extension. The folder of results holds

    index.html, contact_sheet.png   everything at a glance, written at the end
    KEY.glb                         the mesh of each picture
    KEY/status.json                 queued, running, done or failed, why, and when (`Status`)
    KEY/picture.*                   the picture
    KEY/log.txt                     what its run said
    KEY/run/                        its trial folder, with report.html
"""
