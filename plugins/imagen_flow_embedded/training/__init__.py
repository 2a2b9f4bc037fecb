"""The training of the embedded models: generators that yield their progress, checkpoint into a
folder and go on after a kill.
"""
