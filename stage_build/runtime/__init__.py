"""What generated code needs: `base`, and the Keras layers and calls of each family.

`stage_build.codegen` joins the families a net uses into the one file beside its class.
"""
