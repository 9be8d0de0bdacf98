"""The program that ksplice starts."""

from chrdev import Chrdev
from ksplice_plugin import serve

serve(Chrdev())
