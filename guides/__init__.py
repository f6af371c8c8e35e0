"""The inference of each story, under the story's file name: class `X` has the guide `XGuide`."""
