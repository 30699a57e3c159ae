"""RGE, referring guidance encoding: from what the user asks for to the weight map M."""
